"""The one form in which names, labels and words are compared, and the one in which they are kept.

Two texts that a reader takes for the same one are the same here: the text towers of CLIP, whose
tokenizer composes characters, lowers case and takes spaces together, see no difference either.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Final, TypeVar

from compositional_prompts.pipeline.section import require_distinct

Spelling = TypeVar("Spelling")

_REMEMBERED: Final = 2**14
"""Texts: labels and words are few, and are asked for once a row."""

_INVISIBLE: Final = "Cf"
"""The Unicode category of what formats text and is not seen: a zero-width space, a byte-order mark,
a soft hyphen, controls of the direction of writing."""


def composed(text: str) -> str:
    """A text in Unicode's normal form NFC: a letter and its accent are one character."""
    return unicodedata.normalize("NFC", text)


def clean_text(text: str) -> str:
    """A text as it is kept: :func:`composed`, one space for any white space, none around."""
    return " ".join(composed(text).split())


def text_form(text: str) -> str:
    """What texts are compared by: :func:`clean_text`, whatever the case, without what is not seen.

    It is the canonical caseless matching of the Unicode standard (section 3.13, D145), with white
    space taken together: ``Straße`` and ``STRASSE`` are one word, ``café`` is however its accent is
    encoded, and ``T-shirt`` and ``T shirt`` are two.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    seen = "".join(letter for letter in folded if unicodedata.category(letter) != _INVISIBLE)
    return clean_text(seen)


@lru_cache(_REMEMBERED)
def word_form(word: str) -> str:
    """:func:`text_form` of a word or a few, remembered."""
    return text_form(word)


def label_form(name: str) -> str:
    """What labels are compared by: :func:`word_form`, dots as the spaces that they stand for."""
    return word_form(name.replace(".", " "))


def require_said(name: str) -> None:
    """Raise :class:`ValueError` where nothing of a label is left once its dots are the spaces that
    they stand for: a model would be asked for nothing.
    """
    if not label_form(name):
        raise ValueError(f"{name!r} has no letter, digit or sign: dots stand for spaces in a label")


def first_spellings(
    texts: Iterable[Spelling], form: Callable[[Spelling], Hashable]
) -> list[Spelling]:
    """The texts, each once, as it is written first; they are compared by ``form``."""
    taken: dict[Hashable, Spelling] = {}
    for text in texts:
        taken.setdefault(form(text), text)
    return list(taken.values())


def require_distinct_words(words: Iterable[str], what: str) -> None:
    """Raise :class:`ValueError`, which begins with ``what``, where two words are one.

    Raises:
        ValueError: names both as they are written.
    """
    listed = list(words)
    require_distinct(listed, what)
    taken: dict[str, str] = {}
    for word in listed:
        other = taken.setdefault(word_form(word), word)
        if other != word:
            raise ValueError(
                f"{what} {other!r} and {word!r}, which differ in letter case, spaces or encoding "
                "alone and are one word: remove one"
            )


def most_common_spellings(counts: Mapping[str, int], forms: Mapping[str, str]) -> dict[str, str]:
    """Of texts that are one, how it is written: as most often, among equals as sorts first.

    The order in which they were found does not count.

    Args:
        counts: how often each text stands there.
        forms: of each of them, what it is compared by; those with a blank one stay as they are.

    Returns:
        Of every text the spelling that is kept, cleaned.
    """
    by_form: dict[str, Counter[str]] = {}
    for text, count in counts.items():
        by_form.setdefault(forms[text], Counter())[clean_text(text)] += count
    kept = {
        form: min(written, key=lambda text: (-written[text], text))
        for form, written in by_form.items()
        if form
    }
    return {text: kept.get(forms[text], clean_text(text)) for text in counts}
