"""How often the chosen words are true, beside two baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

UNSPECIFIED = "unspecified"
"""What stands in the confusion for an image without a chosen word."""


class GroupMetrics(TypedDict):
    """Metrics of one attribute group; shares are in 0..1, null where there is nothing to share.

    Attributes:
        accuracy: share of the images with truth whose chosen word is the truth; an image without
            a chosen word, or whose truth is not in the vocabulary, counts as wrong.
        accuracy_in_vocabulary: the same among the images whose truth is in the vocabulary.
        coverage: share of all images whose best word is above the threshold.
        majority_accuracy: share of the most frequent truth among the images with truth.
        pixel_accuracy: share of the images with truth whose nearest reference colour is the truth;
            null where the group is not one of colours.
        images_with_truth: count.
        images: count.
    """

    accuracy: float | None
    accuracy_in_vocabulary: float | None
    coverage: float
    majority_accuracy: float | None
    pixel_accuracy: float | None
    images_with_truth: int
    images: int


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one group, and what was predicted for what is true."""

    metrics: GroupMetrics
    confusion: list[tuple[str, str]]
    """truth, predicted: one an image with truth. A truth of the vocabulary is spelled as there."""


def _key(word: str) -> str:
    return word.strip().casefold()


def evaluate(
    vocabulary: Sequence[str],
    chosen: Sequence[str | None],
    truth: Sequence[str | None],
    pixel: Sequence[str | None] | None,
) -> Evaluation:
    """Compare the words chosen in one group with the truth, image by image.

    Words are compared without regard to case and outer white space. A truth that is null or blank
    is not known.

    Args:
        vocabulary: the group's words.
        chosen: a word for every image, None where unspecified; at least one image.
        truth: the true word of every image, None where not known.
        pixel: the pixel baseline's word of every image, or None without a baseline.
    """
    spelling = {_key(word): word for word in vocabulary}
    truths = {index: _key(word) for index, word in enumerate(truth) if word and _key(word)}
    known = list(truths)

    def accuracy(predicted: Sequence[str | None], among: Sequence[int]) -> float | None:
        right = sum(truths[index] == _key(predicted[index] or "") for index in among)
        return right / len(among) if among else None

    in_vocabulary = [index for index in known if truths[index] in spelling]
    counts = Counter(truths.values())
    metrics = GroupMetrics(
        accuracy=accuracy(chosen, known),
        accuracy_in_vocabulary=accuracy(chosen, in_vocabulary),
        coverage=sum(word is not None for word in chosen) / len(chosen),
        majority_accuracy=max(counts.values()) / len(known) if known else None,
        pixel_accuracy=None if pixel is None else accuracy(pixel, known),
        images_with_truth=len(known),
        images=len(chosen),
    )
    confusion = [
        (spelling.get(truths[index], truths[index]), chosen[index] or UNSPECIFIED)
        for index in known
    ]
    return Evaluation(metrics, confusion)
