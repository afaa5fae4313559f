"""How much of what is known of the validation images each kind of text says rightly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compositional_prompts.scoring.recommended_texts import CAPTION, ENHANCED
from compositional_prompts.scoring.slot_accuracy import says_true

Text = tuple[str, Mapping[str, str | None] | None]
"""A text and the words in its places, or None where it is off the template."""


@dataclass(frozen=True)
class Accuracy:
    """Of one kind of text, over the validation images; shares in 0..1.

    Attributes:
        right_words: of all labels and true words known of the images, the share that it says.
        places: the same by place (attribute, object, groups); None where nothing is known.
        well_formed: share on the template.
        as_enhanced: share that equals the enhanced prompt.
        same_object: share with the enhanced prompt's object.
    """

    right_words: float | None
    places: Mapping[str, float | None]
    well_formed: float | None
    as_enhanced: float | None
    same_object: float | None


@dataclass(frozen=True)
class Judgement:
    """What validation shows.

    Attributes:
        images: validation images with a caption.
        labelled: of these, images with a label or truth.
        known: of these, by place, images whose word is known.
        accuracy: by kind of text.
        recommended: :data:`CAPTION` or :data:`ENHANCED`.
        reason: why, in a sentence.
    """

    images: int
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
                "labelled": self.labelled,
                "known": dict(self.known),
                **{
                    kind: {
                        "right_words": accuracy.right_words,
                        "places": dict(accuracy.places),
                        "well_formed": accuracy.well_formed,
                        "as_enhanced": accuracy.as_enhanced,
                        "same_object": accuracy.same_object,
                    }
                    for kind, accuracy in self.accuracy.items()
                },
            },
        }


def judge(
    sources: Mapping[str, Sequence[Text]],
    truth: Mapping[str, Sequence[Sequence[str]]],
    min_labelled: int,
) -> Judgement:
    """Compare the kinds of text of the same images.

    Args:
        sources: by kind, :data:`ENHANCED` and :data:`CAPTION` among them, a text an image.
        truth: by place, the true words of every image; none where not known.
        min_labelled: images with a label or truth that it takes to recommend captions.
    """
    enhanced = sources[ENHANCED]
    known = {place: sum(bool(words) for words in column) for place, column in truth.items()}
    labelled = sum(any(words) for words in zip(*truth.values(), strict=True))
    accuracy = {kind: _accuracy(texts, enhanced, truth, known) for kind, texts in sources.items()}
    recommended, reason = _choice(
        accuracy[CAPTION].right_words, accuracy[ENHANCED].right_words, labelled, min_labelled
    )
    if not enhanced:
        reason = (
            "No validation image has a caption, so nothing shows that the captions are as right as "
            "the enhanced prompts that they were learnt from."
        )
    return Judgement(len(enhanced), labelled, known, accuracy, recommended, reason)


def _accuracy(
    texts: Sequence[Text],
    enhanced: Sequence[Text],
    truth: Mapping[str, Sequence[Sequence[str]]],
    known: Mapping[str, int],
) -> Accuracy:
    right = {
        place: sum(
            says_true(slots, place, words)
            for (_, slots), words in zip(texts, column, strict=True)
            if words
        )
        for place, column in truth.items()
    }
    pairs = list(zip(texts, enhanced, strict=True))
    return Accuracy(
        right_words=_share(sum(right.values()), sum(known.values())),
        places={place: _share(count, known[place]) for place, count in right.items()},
        well_formed=_share(sum(slots is not None for _, slots in texts), len(texts)),
        as_enhanced=_share(sum(a == b for (a, _), (b, _) in pairs), len(pairs)),
        same_object=_share(sum(_object(a) == _object(b) for a, b in pairs), len(pairs)),
    )


def _object(text: Text) -> str | None:
    return None if text[1] is None else text[1]["object"]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


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
