"""Which word of each attribute group suits an image best."""

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
        scores: of every word, a cosine or the logarithm of a probability, float32 ``[n, words]``.
        best: index of the best word, int64 ``[n]``; of equal scores, the first.
        score: its score, float32 ``[n]``.
        margin: its lead over the runner-up, float32 ``[n]``, at least 0; over -1, the lowest
            cosine, where the group has one word.
        chosen: whether the word is to be written, bool ``[n]``.
        abstained: whether it is not, for its probability alone, bool ``[n]``.
        probability: the calibrated one of the best word, float32 ``[n]``, or None.
    """

    words: Sequence[str]
    scores: NDArray[np.float32]
    best: NDArray[np.int64]
    score: NDArray[np.float32]
    margin: NDArray[np.float32]
    chosen: NDArray[np.bool_]
    abstained: NDArray[np.bool_]
    probability: NDArray[np.float32] | None


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


def choose(
    scores: NDArray[np.float32],
    words: Sequence[str],
    threshold: float | None,
    probabilities: NDArray[np.float32] | None = None,
    abstain_below: float | None = None,
) -> Choice:
    """Choose the best word of one group for every image.

    Args:
        scores: of every word, float32 ``[images, words]``.
        words: the group's vocabulary, at least one word.
        threshold: a best word counts only if its score is above this (not equal to it); compared
            in float32. None lets every score count.
        probabilities: of every word, float32 ``[images, words]``, or None where nothing calibrates.
        abstain_below: a best word counts only if its probability is this or more, compared in
            float32: none where nothing calibrates. None lets every probability count.
    """
    best = scores.argmax(axis=1)
    score = np.take_along_axis(scores, best[:, None], axis=1)[:, 0]
    if len(words) > 1:
        runner_up = np.partition(scores, -2, axis=1)[:, -2]
    else:
        runner_up = np.full_like(score, LOWEST_COSINE)
    chosen = np.ones(len(scores), np.bool_)
    if threshold is not None:
        chosen &= score > np.float32(threshold)
    probability = None
    if probabilities is not None:
        probability = np.take_along_axis(probabilities, best[:, None], axis=1)[:, 0]
    abstained = np.zeros_like(chosen)
    if abstain_below is not None:
        sure = probability is not None and probability >= np.float32(abstain_below)
        abstained = chosen & ~np.broadcast_to(sure, chosen.shape)
        chosen &= ~abstained
    return Choice(words, scores, best, score, score - runner_up, chosen, abstained, probability)
