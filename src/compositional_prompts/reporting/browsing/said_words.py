"""Whether the words that a text says of a photo are true, place by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compositional_prompts.prompt.text_form import word_form

RIGHT, WRONG, UNKNOWN = "r", "w", "u"
"""Of a place: a true word is said, none is, or what is true is not known."""

Truth = Mapping[str, Sequence[str]]
"""True words by place (``attribute``, ``object``, then the groups); none where not known."""


def judge(said: Mapping[str, str | None] | None, truth: Truth, places: Sequence[str]) -> str:
    """A letter for each of ``places``: :data:`RIGHT`, :data:`WRONG` or :data:`UNKNOWN`.

    As ``metrics/scores.json`` has it: words are compared in one form (case, spaces and encoding
    aside), and a text off the template (``said`` is None) or without a word is wrong.
    """
    return "".join(_verdict((said or {}).get(place), truth.get(place, ())) for place in places)


def same_word(word: str, other: str) -> bool:
    """Whether two words are one, as :func:`~compositional_prompts.prompt.text_form.word_form`."""
    return word_form(word) == word_form(other)


def _verdict(word: str | None, true: Sequence[str]) -> str:
    if not true:
        return UNKNOWN
    return RIGHT if word is not None and any(same_word(word, one) for one in true) else WRONG
