"""How much of what is known of the validation images each kind of text says rightly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.results.bootstrap import Bootstrap, Column, Interval, beside, nested
from compositional_prompts.scoring.recommended_texts import CAPTION, ENHANCED
from compositional_prompts.scoring.slot_accuracy import says_true

Text = tuple[str, Mapping[str, str | None] | None]
"""A text and the words in its places, or None where it is off the template."""


@dataclass(frozen=True)
class Accuracy:
    """Of one kind of text, over the validation images; shares in 0..1 and their intervals.

    Attributes:
        right_words: of all labels and true words known of the images, the share that it says.
        places: the same by place (attribute, object, groups); nothing where nothing is known.
        well_formed: share on the template.
        as_enhanced: share that equals the enhanced prompt.
        same_object: share with the enhanced prompt's object.
        lead: by how much ``right_words`` exceeds that of the enhanced prompts.
    """

    right_words: Interval
    places: Mapping[str, Interval]
    well_formed: Interval
    as_enhanced: Interval
    same_object: Interval
    lead: Interval

    def metrics(self) -> dict[str, Any]:
        """As ``metrics/recommend.json`` has them, without the lead."""
        return nested(
            {
                ("right_words",): self.right_words,
                **{("places", place): one for place, one in self.places.items()},
                ("well_formed",): self.well_formed,
                ("as_enhanced",): self.as_enhanced,
                ("same_object",): self.same_object,
            }
        )


@dataclass(frozen=True)
class Judgement:
    """What validation shows.

    Attributes:
        images: validation images with a caption,
        products: and how many products they are of.
        labelled: of these, images with a label or truth.
        known: of these, by place, images whose word is known.
        accuracy: by kind of text.
        recommended: :data:`CAPTION` or :data:`ENHANCED`.
        reason: why, in a sentence.
    """

    images: int
    products: int
    labelled: int
    known: Mapping[str, int]
    accuracy: Mapping[str, Accuracy]
    recommended: str
    reason: str

    def metrics(self) -> dict[str, Any]:
        """As they begin ``metrics/recommend.json``."""
        return {
            "recommended": self.recommended,
            "reason": self.reason,
            "validation": {
                "images": self.images,
                "products": self.products,
                "labelled": self.labelled,
                "known": dict(self.known),
                **{
                    kind: accuracy.metrics()
                    | (
                        {}
                        if kind == ENHANCED
                        else {"minus": {ENHANCED: beside({"right_words": accuracy.lead})}}
                    )
                    for kind, accuracy in self.accuracy.items()
                },
            },
        }


def judge(
    sources: Mapping[str, Sequence[Text]],
    truth: Mapping[str, Sequence[Sequence[str]]],
    products: NDArray[np.int64],
    min_labelled: int,
    *,
    templated: bool = True,
) -> Judgement:
    """Compare the kinds of text of the same images.

    Args:
        sources: by kind, :data:`ENHANCED` and :data:`CAPTION` among them, a text an image.
        truth: by place, the true words of every image; none where not known.
        products: number of the product of every image, int64 ``[images]``.
        min_labelled: images with a label or truth that it takes to recommend captions.
        templated: whether captions follow the template of enhanced prompts. Of others their form
            is not known, and their words are those true ones that they mention.
    """
    enhanced = sources[ENHANCED]
    known = {
        place: np.array([bool(words) for words in column], np.bool_)
        for place, column in truth.items()
    }
    labelled = int(np.any([*known.values()], axis=0).sum())
    right = {
        kind: {
            place: np.array(
                [
                    says_true(slots, place, words)
                    for (_, slots), words in zip(texts, column, strict=True)
                ],
                np.bool_,
            )
            for place, column in truth.items()
        }
        for kind, texts in sources.items()
    }
    bootstrap = Bootstrap(products)
    every = Bootstrap(np.tile(products, len(truth)))  # a row an image and place: the same draws
    accuracy = {
        kind: _accuracy(
            *(texts, enhanced, right[kind], known, (bootstrap, every), right[ENHANCED]),
            formed=templated or kind == ENHANCED,
        )
        for kind, texts in sources.items()
    }
    recommended, reason = _choice(
        accuracy[CAPTION].right_words.value,
        accuracy[ENHANCED].right_words.value,
        labelled,
        min_labelled,
    )
    if not enhanced:
        reason = (
            "No validation image has a caption, so nothing shows that the captions are as right as "
            "the enhanced prompts that they were learnt from."
        )
    return Judgement(
        images=len(enhanced),
        products=len(np.unique(products)),
        labelled=labelled,
        known={place: int(column.sum()) for place, column in known.items()},
        accuracy=accuracy,
        recommended=recommended,
        reason=reason,
    )


def _accuracy(
    texts: Sequence[Text],
    enhanced: Sequence[Text],
    right: Mapping[str, NDArray[np.bool_]],
    known: Mapping[str, NDArray[np.bool_]],
    bootstraps: tuple[Bootstrap, Bootstrap],
    right_enhanced: Mapping[str, NDArray[np.bool_]],
    *,
    formed: bool,
) -> Accuracy:
    """Accuracy of texts, by bootstraps of images, and of images and places."""
    images, every = bootstraps
    pairs = list(zip(texts, enhanced, strict=True))
    judged = None if formed else np.zeros(len(texts), np.bool_)
    of_texts: dict[str, Column] = {
        "well_formed": ([slots is not None for _, slots in texts], judged),
        "as_enhanced": ([a == b for (a, _), (b, _) in pairs], judged),
        "same_object": ([_object(a) == _object(b) for a, b in pairs], judged),
    }
    shares = images.named(of_texts)
    places = images.named({place: (right[place], known[place]) for place in right})
    words, words_enhanced, counted = (
        np.concatenate([*columns.values()]).astype(np.float64)
        for columns in (right, right_enhanced, known)
    )
    all_words = every.named(
        {"right_words": (words, counted), "lead": (words - words_enhanced, counted)}
    )
    return Accuracy(places=places, **shares, **all_words)


def _object(text: Text) -> str | None:
    return None if text[1] is None else text[1]["object"]


def _choice(
    caption: float | None, enhanced: float | None, labelled: int, min_labelled: int
) -> tuple[str, str]:
    """The kind of text that is recommended, and why."""
    if caption is None or enhanced is None:
        return ENHANCED, (
            "Nothing is known to be true of the validation images, so nothing shows that the "
            "captions are as right as the enhanced prompts that they were learnt from."
        )
    figures = (
        f"of the words known of {labelled:,} validation images, captions have "
        f"{caption:.1%} right and enhanced prompts {enhanced:.1%}"
    )
    if labelled < min_labelled:
        return ENHANCED, (
            f"It takes {min_labelled:,} labelled validation images to say that captions are as "
            f"right as enhanced prompts ({figures})."
        )
    return (
        CAPTION if caption >= enhanced else ENHANCED,
        f"{figures[0].upper()}{figures[1:]}.",
    )
