"""The grammar of captions: segments, and of each the texts that may stand in its place.

A caption of the grammar is one alternative of every segment, in order, joined without anything in
between. It lies beside the adapter that was trained to write such captions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from compositional_prompts.files.outputs import DamagedOutputError, atomic_file
from compositional_prompts.files.records.json_objects import read_json_object

GRAMMAR_FILE = "grammar.json"


def write_grammar(segments: Sequence[Sequence[str]], directory: Path) -> None:
    """Write a grammar as :data:`GRAMMAR_FILE` into ``directory``.

    Raises:
        ValueError: there is no segment, or one without an alternative.
    """
    plain = [list(alternatives) for alternatives in segments]
    _check(plain, "The grammar")
    with atomic_file(directory / GRAMMAR_FILE) as temporary:
        temporary.write_text(json.dumps({"segments": plain}, indent=2, ensure_ascii=False) + "\n")


def read_grammar(directory: Path) -> list[list[str]] | None:
    """The grammar that lies in ``directory``, or None where there is none.

    Raises:
        DamagedOutputError: the file is not a grammar.
    """
    path = directory / GRAMMAR_FILE
    if not path.is_file():
        return None
    segments = read_json_object(path).get("segments")
    if not isinstance(segments, list) or not all(
        isinstance(alternatives, list) and all(isinstance(text, str) for text in alternatives)
        for alternatives in segments
    ):
        raise DamagedOutputError(f'{path} must hold {{"segments": [[text, ...], ...]}}.', path)
    _check(segments, str(path))
    return segments


def _check(segments: Sequence[Sequence[str]], source: str) -> None:
    if not segments:
        raise ValueError(f"{source} has no segments: a caption needs at least one.")
    for number, alternatives in enumerate(segments):
        if not alternatives:
            raise ValueError(f"{source}: segment {number} has no alternatives, one is needed.")
