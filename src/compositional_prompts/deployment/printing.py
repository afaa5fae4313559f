"""Records of photos as lines of text or of JSON, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from compositional_prompts.prompt.pair import NO_ATTRIBUTE, pair_name

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
# Paths and captions come from outside: what would move a terminal's cursor, or end a line, is
# written as an escape.


def as_json(record: Mapping[str, Any]) -> str:
    """One line of JSON; what of a path is not UTF-8 as the escapes that Python reads back."""
    return encodable(json.dumps(record, ensure_ascii=False, allow_nan=False))


def as_text(record: Mapping[str, Any], with_path: bool, text: str) -> str:
    """``path<TAB>text``, or the text alone; an indented line for whatever was asked for beside it.

    Args:
        record: of a photo with a caption.
        with_path: whether the path is printed.
        text: which of the record's texts: ``caption``, ``recommended`` or ``readable``.
    """
    shown = plain(record[text])
    first = f"{plain(record['path'])}\t{shown}" if with_path else shown
    return "\n".join([first, *(f"    {name:<12}{text}" for name, text in _details(record))])


def plain(text: str) -> str:
    """Text that may stand in one line of a terminal."""
    return encodable(text.translate(_CONTROL))


def encodable(text: str) -> str:
    """Text with escapes for what a path that is not UTF-8 leaves in it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _details(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "untrained" in record:
        yield "untrained", plain(record["untrained"])
    if "enhanced" in record:
        enhanced = record["enhanced"]
        yield "enhanced", plain(enhanced["prompt"])
        attribute = enhanced["attribute"]
        pair = pair_name(attribute or NO_ATTRIBUTE, enhanced["object"])
        yield (
            "object" if attribute is None else "pair",
            f"{plain(pair)} {enhanced['probability']:.2f}",
        )
    if "slots" in record:
        slots = record["slots"]
        yield "says", "nothing in the places of a prompt" if slots is None else plain(_slots(slots))
    for group, scores in record.get("scores", {}).items():
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        yield group, "  ".join(f"{plain(word)} {score:.3f}" for word, score in ranked)


def _slots(slots: Mapping[str, str | None]) -> str:
    return ", ".join(f"{place} {'-' if word is None else word}" for place, word in slots.items())
