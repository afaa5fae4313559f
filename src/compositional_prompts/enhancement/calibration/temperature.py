"""Scores of words to probabilities: temperature scaling (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLATTEST, SHARPEST = 1e-3, 1e5
"""Bounds of the inverse temperature, in units of the scores' mean range (best less worst of an
image). At the lower one every word of a group has the same probability to three digits: scores
that say nothing end there."""
_A_DECADE = 5
_HALVINGS = 60


@dataclass(frozen=True)
class Temperature:
    """What turns scores into probabilities; ValueError where a number is not in its range.

    Attributes:
        temperature: what scores are divided by before the softmax, above 0.
        outside: the probability that none of the group's words is true, in 0..1.
    """

    temperature: float
    outside: float

    def __post_init__(self) -> None:
        if not (0 < self.temperature < math.inf and 0 <= self.outside <= 1):
            raise ValueError(
                f"a temperature must be above 0 and an outside share in 0..1, found "
                f"{self.temperature} and {self.outside}"
            )

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probability of every word: ``(1 - outside) * softmax(scores / temperature)``.

        Args:
            scores: float32 ``[n, words]``, at least one word; n may be 0.

        Returns:
            float32 ``[n, words]``; a row sums to ``1 - outside``.

        Raises:
            ValueError: a score is not finite.
        """
        checked = finite_scores(scores)
        inside = (1 - self.outside) * _softmax(checked / self.temperature)
        return inside.astype(np.float32)


def fit_temperature(
    scores: NDArray[np.float32], true: NDArray[np.bool_], known: NDArray[np.bool_]
) -> Temperature | None:
    """The temperature and outside share of greatest likelihood.

    With u the outside share, an image's likelihood is ``(1 - u) * sum of softmax over its true
    words`` where a word of the group is true, else ``u``. The two part: u is the share of the
    images whose truth is no word of the group, and the temperature minimises the mean of ``-log sum
    of softmax over the true words`` over the others. As Platt (1999) smooths targets, the loss
    that these images would have were every word alike their truth is added with the weight of one
    image: without it the best temperature of scores that are never wrong is 0.

    The minimum is exact: the derivative's zeros are bracketed on a grid and halved to the last
    digits of float64; where truth has one word an image there is one zero (the loss is convex in
    the inverse temperature), else the lowest of them counts.

    Args:
        scores: float32 ``[n, words]``.
        true: bool ``[n, words]``: the words that are true of an image, any number.
        known: bool ``[n]``: images whose truth is known; others count for nothing.

    Returns:
        None where no image is known to have one of the words: nothing calibrates then.

    Raises:
        ValueError: shapes differ, or a score is not finite.
    """
    checked = finite_scores(scores)
    if true.shape != checked.shape or known.shape != checked.shape[:1]:
        raise ValueError(
            f"scores {checked.shape}, true {true.shape} and known {known.shape} must be of the "
            "same images and words."
        )
    inside = known & true.any(axis=1)
    if not inside.any():
        return None
    outside = 1 - float(inside.sum() / known.sum())
    return Temperature(_best_temperature(checked[inside], true[inside]), outside)


def mean_loss(
    scores: NDArray[np.float32], true: NDArray[np.bool_], temperature: float
) -> float | None:
    """Mean of ``-log sum of softmax over the true words``, in nats.

    Args:
        scores: float32 ``[n, words]``.
        true: bool ``[n, words]``; images without a true word are left out.
        temperature: above 0.

    Returns:
        None where no image has a true word.
    """
    inside = true.any(axis=1)
    if not inside.any():
        return None
    logits = finite_scores(scores)[inside] / temperature
    return float(np.mean(_log_sum(logits) - _log_sum(np.where(true[inside], logits, -np.inf))))


def finite_scores(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """The scores in float64.

    Raises:
        ValueError: one of them is not finite, or they are not ``[n, words]`` with a word at least.
    """
    checked = np.asarray(scores, np.float64)
    if checked.ndim != 2 or not checked.shape[1]:
        raise ValueError(f"scores must be [images, words], found shape {checked.shape}.")
    bad = ~np.isfinite(checked).all(axis=1)
    if bad.any():
        raise ValueError(
            f"the scores of {bad.sum()} of {len(checked)} images are not finite, the first in row "
            f"{bad.argmax()}: the vectors that they come from are damaged."
        )
    return checked


def _best_temperature(scores: NDArray[np.float64], true: NDArray[np.bool_]) -> float:
    scores = scores - scores.max(axis=1, keepdims=True)
    spread = float(-scores.min(axis=1).mean())
    if spread == 0:
        return 1.0  # no word is ahead of another: every temperature gives the same
    scaled = scores / spread
    only_true = np.where(true, scaled, -np.inf)
    weight = 1 / len(scaled)

    def loss(inverse: float) -> float:
        total = _log_sum(inverse * scaled)
        smooth = float(np.mean(total - inverse * scaled.mean(axis=1)))
        return float(np.mean(total - _log_sum(inverse * only_true))) + weight * smooth

    def slope(inverse: float) -> float:
        expected = np.sum(_softmax(inverse * scaled) * scaled, axis=1)
        of_true = np.sum(_softmax(inverse * only_true) * np.where(true, scaled, 0), axis=1)
        smooth = float(np.mean(expected - scaled.mean(axis=1)))
        return float(np.mean(expected - of_true)) + weight * smooth

    decades = round(np.log10(SHARPEST / FLATTEST))
    grid = np.geomspace(FLATTEST, SHARPEST, decades * _A_DECADE + 1)
    slopes = [slope(inverse) for inverse in grid]
    candidates = [float(grid[0]), float(grid[-1])]
    for place in range(len(grid) - 1):
        if slopes[place] < 0 <= slopes[place + 1]:
            low, high = float(grid[place]), float(grid[place + 1])
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                low, high = (middle, high) if slope(middle) < 0 else (low, middle)
            candidates.append((low + high) / 2)
    return spread / min(candidates, key=loss)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return result


def _log_sum(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log sum exp`` of every row."""
    most = logits.max(axis=1)
    result: NDArray[np.float64] = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
    return result
