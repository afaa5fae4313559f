"""Which words of a generated caption are right, place by place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.prompt.text_form import text_form, word_form
from compositional_prompts.results.bootstrap import Column

SlotReader = Callable[[str], Mapping[str, str | None] | None]
"""Caption to its word in each place (None: unspecified), or None where it is not well formed."""


MENTIONED: Final = "mention_accuracy_vs_truth"
"""The share that can be told of any text, on the template or not."""


@dataclass(frozen=True)
class SlotHits:
    """One place of ``n`` captions; bool ``[n]`` each.

    Attributes:
        as_enhanced: the caption has the enhanced prompt's word in this place, or leaves it
            unspecified as the prompt does.
        known: something is known to be true of the image.
        true: it is, and the caption has a true word in this place.
        mentioned: it is, and a true word stands anywhere in the caption.
    """

    as_enhanced: NDArray[np.bool_]
    known: NDArray[np.bool_]
    true: NDArray[np.bool_]
    mentioned: NDArray[np.bool_]

    @property
    def columns(self) -> dict[str, Column]:
        """The shares of ``metrics/scores.json``, by name: of which images, and which of them."""
        return {
            "accuracy_vs_enhanced": (self.as_enhanced, None),
            "accuracy_vs_truth": (self.true, self.known),
            MENTIONED: (self.mentioned, self.known),
        }


def plain_words(text: str) -> str:
    """Return ``text`` in lower case, with one space for whatever is neither letter nor digit."""
    return " ".join(re.findall(r"[^\W_]+", text_form(text)))


def mentions(caption: str, word: str) -> bool:
    """Whether ``word`` stands in ``caption`` as whole words, whatever is between and around them.

    ``Faux.Leather`` stands in ``faux leather boots`` and in ``A photo of Faux.Leather_Boots``. A
    word without any letter or digit stands in nothing.
    """
    plain = plain_words(word)
    return bool(plain) and f" {plain} " in f" {plain_words(caption)} "


def says_true(read: Mapping[str, str | None] | None, name: str, words: Sequence[str]) -> bool:
    """Whether a text, as its places were read, has one of the true words in the place ``name``.

    Case, spaces and encoding do not matter. A text that is not well formed has none.
    """
    said = None if read is None else read[name]
    return said is not None and word_form(said) in map(word_form, words)


def slot_hits(
    captions: Sequence[str],
    slots: Sequence[Mapping[str, str | None] | None],
    name: str,
    enhanced: Sequence[str | None],
    truth: Sequence[Sequence[str]],
) -> SlotHits:
    """Judge one place of the captions.

    A caption that is not well formed is wrong in every place; it may still mention a word. The
    enhanced prompt's words are compared exactly, true words by their form
    (:func:`~compositional_prompts.prompt.text_form.word_form`).

    Args:
        captions: any number of captions.
        slots: what was read from each.
        name: the place: ``attribute``, ``object`` or a group.
        enhanced: the enhanced prompt's word, None where unspecified.
        truth: the true words, none where not known.
    """
    rows = list(zip(captions, slots, enhanced, truth, strict=True))
    return SlotHits(
        as_enhanced=np.array(
            [read is not None and read[name] == word for _, read, word, _ in rows], np.bool_
        ),
        known=np.array([bool(words) for *_, words in rows], np.bool_),
        true=np.array([says_true(read, name, words) for _, read, _, words in rows], np.bool_),
        mentioned=np.array(
            [any(mentions(text, one) for one in words) for text, *_, words in rows], np.bool_
        ),
    )
