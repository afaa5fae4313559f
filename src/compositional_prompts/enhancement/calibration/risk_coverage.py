"""What is wrong of the words that are written, by how many are: the risk-coverage curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.enhancement.calibration.calibration_error import checked_probability


@dataclass(frozen=True)
class RiskCoverage:
    """The surest words first; a point for every different probability, float64 ``[points]``.

    Attributes:
        threshold: the probability that a word has at least, falling.
        coverage: share of the images whose word has it, rising to 1.
        risk: share of these words that is not true.
        area: of the curve, the mean of the risk over the images as they are added one by one.
    """

    threshold: NDArray[np.float64]
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    area: float

    def thinned(self, points: int) -> RiskCoverage:
        """The same curve at no more than ``points`` points, the first and the last among them."""
        places = np.unique(np.linspace(0, len(self.risk) - 1, points).round().astype(int))
        return RiskCoverage(
            self.threshold[places], self.coverage[places], self.risk[places], self.area
        )


def risk_coverage(probability: NDArray[np.floating], right: NDArray[np.bool_]) -> RiskCoverage:
    """The curve and its area (AURC: Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206).

    With the images in falling order of probability, the area is the mean over k of the share of
    the first k that is wrong. Images of one probability come in no order: the share among them is
    what it is on average over all their orders, so ties neither help nor harm.

    Args:
        probability: of the chosen words, ``[n]`` in 0..1, n at least 1.
        right: whether each is true, bool ``[n]``.

    Raises:
        ValueError: there is no image, or a probability is not in 0..1.
    """
    checked = checked_probability(probability)
    order = np.argsort(-checked, kind="stable")
    falling = checked[order]
    wrong = np.cumsum(~right[order])
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    kept, total = ends + 1, len(falling)
    added = np.arange(1, total + 1)
    expected = np.interp(added, np.insert(kept, 0, 0), np.insert(wrong[ends], 0, 0))
    return RiskCoverage(
        threshold=falling[ends],
        coverage=kept / total,
        risk=wrong[ends] / kept,
        area=float(np.mean(expected / added)),
    )
