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

    Where several words are true of an image, each of them is.

    Attributes:
        accuracy: share of the images with truth whose chosen word is true; an image without a
            chosen word, or with no true word in the vocabulary, counts as wrong.
        accuracy_in_vocabulary: the same among the images with a true word in the vocabulary.
        coverage: share of all images whose best word is above the threshold.
        majority_accuracy: share of the images with truth of which the most frequent word is true.
        pixel_accuracy: share of the images with truth whose nearest reference colour is true; null
            where the group is not one of colours.
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
    """truth, predicted: one an image with truth. A truth of the vocabulary is spelled as there.

    Of several true words it is the one predicted, else the first of the vocabulary, else the first.
    """


def _key(word: str) -> str:
    return word.strip().casefold()


def evaluate(
    vocabulary: Sequence[str],
    chosen: Sequence[str | None],
    truth: Sequence[Sequence[str]],
    pixel: Sequence[str | None] | None,
) -> Evaluation:
    """Compare the words chosen in one group with the truth, image by image.

    Words are compared without regard to case and outer white space.

    Args:
        vocabulary: the group's words.
        chosen: a word for every image, None where unspecified; at least one image.
        truth: the true words of every image, none where not known.
        pixel: the pixel baseline's word of every image, or None without a baseline.
    """
    spelling = {_key(word): word for word in vocabulary}
    truths = {
        index: keys
        for index, words in enumerate(truth)
        if (keys := list(dict.fromkeys(_key(word) for word in words)))
    }
    known = list(truths)

    def accuracy(predicted: Sequence[str | None], among: Sequence[int]) -> float | None:
        right = sum(_key(predicted[index] or "") in truths[index] for index in among)
        return right / len(among) if among else None

    in_vocabulary = [index for index in known if any(key in spelling for key in truths[index])]
    counts = Counter(key for keys in truths.values() for key in keys)
    metrics = GroupMetrics(
        accuracy=accuracy(chosen, known),
        accuracy_in_vocabulary=accuracy(chosen, in_vocabulary),
        coverage=sum(word is not None for word in chosen) / len(chosen),
        majority_accuracy=max(counts.values()) / len(known) if known else None,
        pixel_accuracy=None if pixel is None else accuracy(pixel, known),
        images_with_truth=len(known),
        images=len(chosen),
    )
    confusion = []
    for index, keys in truths.items():
        said = _key(chosen[index] or "")
        # False sorts first: the word predicted, then those of the vocabulary, then the order given.
        first = min(keys, key=lambda key: (key != said, key not in spelling))
        confusion.append((spelling.get(first, first), chosen[index] or UNSPECIFIED))
    return Evaluation(metrics, confusion)
