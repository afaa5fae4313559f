"""Which words of a generated caption are right, place by place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

SlotReader = Callable[[str], Mapping[str, str | None] | None]
"""Caption to its word in each place (None: unspecified), or None where it is not well formed."""


class SlotMetrics(TypedDict):
    """Shares of captions in 0..1.

    Attributes:
        accuracy_vs_enhanced: the caption has the enhanced prompt's word in this place, or leaves
            it unspecified as the prompt does.
        accuracy_vs_truth: of the images with truth, it has a true word in this place.
        mention_accuracy_vs_truth: of the images with truth, a true word stands anywhere in it.
    """

    accuracy_vs_enhanced: float
    accuracy_vs_truth: float | None
    mention_accuracy_vs_truth: float | None


def plain_words(text: str) -> str:
    """Return ``text`` in lower case, with one space for whatever is neither letter nor digit."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def mentions(caption: str, word: str) -> bool:
    """Whether ``word`` stands in ``caption`` as whole words, whatever is between and around them.

    ``Faux.Leather`` stands in ``faux leather boots`` and in ``A photo of Faux.Leather_Boots``. A
    word without any letter or digit stands in nothing.
    """
    plain = plain_words(word)
    return bool(plain) and f" {plain} " in f" {plain_words(caption)} "


def says_true(read: Mapping[str, str | None] | None, name: str, words: Sequence[str]) -> bool:
    """Whether a text, as its places were read, has one of the true words in the place ``name``.

    Case and outer white space do not matter. A text that is not well formed has none.
    """
    said = None if read is None else read[name]
    return said is not None and said.strip().casefold() in {one.strip().casefold() for one in words}


def slot_metrics(
    captions: Sequence[str],
    slots: Sequence[Mapping[str, str | None] | None],
    name: str,
    enhanced: Sequence[str | None],
    truth: Sequence[Sequence[str]],
) -> SlotMetrics:
    """Score one place of the captions.

    A caption that is not well formed is wrong in every place; it may still mention a word. The
    enhanced prompt's words are compared exactly, true words without regard to case and outer white
    space. Where nothing is known, the shares of truth are null.

    Args:
        captions: at least one caption.
        slots: what was read from each.
        name: the place: ``attribute``, ``object`` or a group.
        enhanced: the enhanced prompt's word, None where unspecified.
        truth: the true words, none where not known.
    """
    same = [
        read is not None and read[name] == word for read, word in zip(slots, enhanced, strict=True)
    ]
    true = []
    mentioned = []
    for caption, read, words in zip(captions, slots, truth, strict=True):
        if not words:
            continue
        true.append(says_true(read, name, words))
        mentioned.append(any(mentions(caption, one) for one in words))
    return SlotMetrics(
        accuracy_vs_enhanced=sum(same) / len(same),
        accuracy_vs_truth=sum(true) / len(true) if true else None,
        mention_accuracy_vs_truth=sum(mentioned) / len(mentioned) if mentioned else None,
    )
