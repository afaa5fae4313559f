"""How often the chosen words are true, beside two baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


Confusion = list[tuple[str, str]]
"""Truth and predicted word: one an image with truth. A truth of the vocabulary is spelled as there.

Of several true words it is the one predicted, else the first of the vocabulary, else the first.
"""


def word_key(word: str) -> str:
    """What words are compared by: without regard to case and outer white space."""
    return word.strip().casefold()


class WordEvaluation:
    """The words chosen in one group against the truth, a block of images at a time.

    Words are compared without regard to case and outer white space. Memory holds counts.
    """

    def __init__(self, vocabulary: Sequence[str], *, pixel: bool) -> None:
        """Begin with no images.

        Args:
            vocabulary: the group's words.
            pixel: whether there is the pixel baseline.
        """
        self._spelling = {word_key(word): word for word in vocabulary}
        self._pixel = pixel
        self._counts: Counter[str] = Counter()
        self._images = self._specified = 0
        self._known = self._right = self._pixel_right = 0
        self._inside = self._inside_right = 0

    def add(
        self,
        chosen: Sequence[str | None],
        truth: Sequence[Sequence[str]],
        pixel: Sequence[str | None] | None,
    ) -> Confusion:
        """Count some images.

        Args:
            chosen: a word for every image, None where unspecified.
            truth: the true words of every image, none where not known.
            pixel: the pixel baseline's word of every image, or None without the baseline.

        Returns:
            What was predicted for what is true, of the images with truth.
        """
        self._images += len(chosen)
        self._specified += sum(word is not None for word in chosen)
        confusion = []
        for index, words in enumerate(truth):
            keys = list(dict.fromkeys(word_key(word) for word in words))
            if not keys:
                continue
            said = word_key(chosen[index] or "")
            self._known += 1
            self._right += said in keys
            if any(key in self._spelling for key in keys):
                self._inside += 1
                self._inside_right += said in keys
            if pixel is not None:
                self._pixel_right += word_key(pixel[index] or "") in keys
            self._counts.update(keys)
            # False sorts first: what was predicted, those of the vocabulary, the order given.
            first = min(keys, key=lambda key: (key != said, key not in self._spelling))
            confusion.append((self._spelling.get(first, first), chosen[index] or UNSPECIFIED))
        return confusion

    def metrics(self) -> GroupMetrics:
        """Of all images counted, at least one."""
        return GroupMetrics(
            accuracy=_share(self._right, self._known),
            accuracy_in_vocabulary=_share(self._inside_right, self._inside),
            coverage=self._specified / self._images,
            majority_accuracy=_share(max(self._counts.values(), default=0), self._known),
            pixel_accuracy=_share(self._pixel_right, self._known) if self._pixel else None,
            images_with_truth=self._known,
            images=self._images,
        )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
