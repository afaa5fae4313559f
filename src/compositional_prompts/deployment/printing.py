"""Records of photos as lines of text or of JSON, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from compositional_prompts.pipeline.terminal_text import escaped_json, one_line
from compositional_prompts.prompt.pair import NO_ATTRIBUTE, pair_name


def as_json(record: Mapping[str, Any]) -> str:
    """One line of JSON; what of a path is not UTF-8 as the escapes that Python reads back."""
    return escaped_json(json.dumps(record, ensure_ascii=False, allow_nan=False))


def as_text(record: Mapping[str, Any], with_path: bool, text: str) -> str:
    """``path<TAB>text``, or the text alone; an indented line for whatever was asked for beside it.

    Args:
        record: of a photo with a caption.
        with_path: whether the path is printed.
        text: which of the record's texts: ``caption``, ``recommended`` or ``readable``.
    """
    shown = one_line(record[text])
    first = f"{one_line(record['path'])}\t{shown}" if with_path else shown
    return "\n".join([first, *(f"    {name:<12}{text}" for name, text in _details(record))])


def _details(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "untrained" in record:
        yield "untrained", one_line(record["untrained"])
    if "enhanced" in record:
        enhanced = record["enhanced"]
        yield "enhanced", one_line(enhanced["prompt"])
        attribute = enhanced["attribute"]
        pair = pair_name(attribute or NO_ATTRIBUTE, enhanced["object"])
        yield (
            "object" if attribute is None else "pair",
            f"{one_line(pair)} {enhanced['probability']:.2f}",
        )
    if "slots" in record:
        slots = record["slots"]
        yield (
            "says",
            "nothing in the places of a prompt" if slots is None else one_line(_slots(slots)),
        )
    for group, scores in record.get("scores", {}).items():
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        yield group, "  ".join(f"{one_line(word)} {score:.3f}" for word, score in ranked)


def _slots(slots: Mapping[str, str | None]) -> str:
    return ", ".join(f"{place} {'-' if word is None else word}" for place, word in slots.items())
