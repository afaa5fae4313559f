"""How far probabilities are from the share that is right: bins, and the mean gap over them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""As Guo et al. (2017) and most papers since."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose word has about the same probability.

    Attributes:
        low: the lowest probability among them.
        high: the highest.
        images: how many, at least 1.
        probability: the mean of their probabilities.
        accuracy: the share of them whose word is true.
    """

    low: float
    high: float
    images: int
    probability: float
    accuracy: float


def equal_width(probability: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin of every image, int64 ``[n]``: m where ``m/15 < probability <= (m+1)/15``, or 0."""
    checked = checked_probability(probability)
    return np.maximum(np.ceil(checked * BINS).astype(np.int64) - 1, 0)


def equal_mass(probability: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin of every image, int64 ``[n]``, as many images in each as equal probabilities allow.

    With r the number of images whose probability is at most this one's, ``ceil(15 r / n) - 1``:
    images of one probability are never parted, so the order of the images does not matter.
    """
    checked = checked_probability(probability)
    rank = np.searchsorted(np.sort(checked), checked, side="right")
    return -(-BINS * rank // len(checked)) - 1


def reliability(
    probability: NDArray[np.floating], right: NDArray[np.bool_], bins: NDArray[np.int64]
) -> list[ReliabilityBin]:
    """The bins that have an image, in rising order.

    Args:
        probability: of the chosen words, ``[n]`` in 0..1.
        right: whether each is true, bool ``[n]``.
        bins: of :func:`equal_width` or :func:`equal_mass`.
    """
    checked = checked_probability(probability)
    found = []
    for place in np.unique(bins):
        inside = checked[bins == place]
        found.append(
            ReliabilityBin(
                low=float(inside.min()),
                high=float(inside.max()),
                images=len(inside),
                probability=float(inside.mean()),
                accuracy=float(right[bins == place].mean()),
            )
        )
    return found


def calibration_error(bins: list[ReliabilityBin]) -> float:
    """Expected calibration error: the mean over images of their bin's ``|accuracy - probability|``.

    Naeini et al. (2015), Guo et al. (2017); with bins of equal mass Nguyen and O'Connor (2015).
    """
    images = sum(one.images for one in bins)
    return sum(one.images * abs(one.accuracy - one.probability) for one in bins) / images


def error_of_truthful(probability: NDArray[np.floating], bins: NDArray[np.int64]) -> float:
    """The calibration error that perfectly calibrated probabilities would show on so few images.

    Chance alone parts share and probability, so the error is biased upwards (Bröcker 2012;
    Kumar et al. 2019). Were each word true with exactly its probability, the gap of a bin would be
    about normal around 0 with variance ``sum p (1 - p) / images²``, of mean size
    ``sqrt(2 / pi)`` times its root.
    """
    checked = checked_probability(probability)
    variance = np.bincount(bins, checked * (1 - checked))
    return float(math.sqrt(2 / math.pi) * np.sqrt(variance).sum() / len(checked))


def checked_probability(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """The probabilities in float64.

    Raises:
        ValueError: there is none, or one is not in 0..1 (NaN is not).
    """
    checked = np.asarray(probability, np.float64)
    if not checked.size:
        raise ValueError("there is no probability: of no image is known what is true.")
    if not ((checked >= 0) & (checked <= 1)).all():
        raise ValueError(
            f"probabilities must be in 0..1, found {checked.min()} to {checked.max()}."
        )
    return checked
