"""Which words of a caption differ from those of its reference."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

# A pair is one whitespace-free token, `Canvas_Sandals`: its two halves are compared apart.
_PIECE = re.compile(r"\s+|_|[^\s_]+")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text, and whether it differs from the reference."""

    text: str
    differs: bool


def compare(text: str, reference: str) -> list[Span]:
    """``text`` in spans, those that an alignment with ``reference`` does not match marked.

    The spans joined give ``text`` back; neighbours of the same kind are one span. Spaces and
    underscores are never marked on their own, only between two marked words.
    """
    pieces = _PIECE.findall(text)
    marked = [False] * len(pieces)
    words = [index for index, piece in enumerate(pieces) if _is_word(piece)]
    reference_words = [piece for piece in _PIECE.findall(reference) if _is_word(piece)]
    matcher = SequenceMatcher(None, [pieces[i] for i in words], reference_words, autojunk=False)
    for kind, start, stop, _, _ in matcher.get_opcodes():
        if kind in ("replace", "delete"):
            for position in range(words[start], words[stop - 1] + 1):
                marked[position] = True
    spans: list[Span] = []
    for piece, differs in zip(pieces, marked, strict=True):
        if spans and spans[-1].differs == differs:
            spans[-1] = Span(spans[-1].text + piece, differs)
        else:
            spans.append(Span(piece, differs))
    return spans


def plain(text: str) -> list[Span]:
    """``text`` with nothing marked."""
    return [Span(text, False)] if text else []


def _is_word(piece: str) -> bool:
    return piece != "_" and not piece.isspace()
