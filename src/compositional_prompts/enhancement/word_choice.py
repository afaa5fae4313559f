"""Which word of each attribute group an image is nearest to, by CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOWEST_COSINE = -1.0
"""What the only word of a group leads over: no cosine is lower."""


@dataclass(frozen=True)
class Choice:
    """The words chosen for ``n`` images in one group.

    Attributes:
        words: the group's vocabulary.
        scores: cosine of every word, float32 ``[n, words]``.
        best: index of the best word, int64 ``[n]``; of equal scores, the first.
        score: its cosine, float32 ``[n]``.
        margin: its lead over the runner-up, float32 ``[n]``, at least 0; over a cosine of -1 where
            the group has one word.
        chosen: whether the score is above the threshold, bool ``[n]``.
    """

    words: Sequence[str]
    scores: NDArray[np.float32]
    best: NDArray[np.int64]
    score: NDArray[np.float32]
    margin: NDArray[np.float32]
    chosen: NDArray[np.bool_]


def score_words(
    vectors: NDArray[np.float32], word_vectors: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Cosines of images and words.

    Args:
        vectors: of images, L2-normalised float32 ``[images, dimension]``.
        word_vectors: by group, L2-normalised float32 ``[words, dimension]``.

    Returns:
        By group, float32 ``[images, words]``.

    Raises:
        ValueError: image and word vectors differ in width.
    """
    words = np.concatenate(list(word_vectors.values()))
    if vectors.shape[1] != words.shape[1]:
        raise ValueError(
            f"the image vectors have {vectors.shape[1]} numbers and the word vectors "
            f"{words.shape[1]}: they must come from one model; run clip_embed again."
        )
    scores = vectors @ words.T
    ends = np.cumsum([len(group) for group in word_vectors.values()])
    return dict(zip(word_vectors, np.split(scores, ends[:-1], axis=1), strict=True))


def choose(scores: NDArray[np.float32], words: Sequence[str], threshold: float) -> Choice:
    """Choose the best word of one group for every image.

    Args:
        scores: cosines, float32 ``[images, words]``.
        words: the group's vocabulary, at least one word.
        threshold: a best word counts only if its cosine is above this (not equal to it); compared
            in float32.
    """
    best = scores.argmax(axis=1)
    score = np.take_along_axis(scores, best[:, None], axis=1)[:, 0]
    if len(words) > 1:
        runner_up = np.partition(scores, -2, axis=1)[:, -2]
    else:
        runner_up = np.full_like(score, LOWEST_COSINE)
    return Choice(words, scores, best, score, score - runner_up, score > np.float32(threshold))
