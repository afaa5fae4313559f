"""How true chosen words are, and how true their probabilities, on products nothing learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.enhancement.calibration.calibration_error import (
    calibration_error,
    equal_mass,
    equal_width,
    error_of_truthful,
    reliability,
)
from compositional_prompts.enhancement.calibration.risk_coverage import risk_coverage
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.files.records.spreadsheet_cells import CsvTable
from compositional_prompts.results.bootstrap import Bootstrap, interval, product_codes

CURVE_POINTS = 200
"""Points of the risk-coverage curve that are written; a screen has few more."""

Bounds = list[float] | None
"""The 95 % interval of the figure beside it; null where it has none."""


class HeldOut(TypedDict):
    """Figures of the test images whose truth is known; shares in 0..1, null of no images.

    Attributes:
        images: how many.
        accuracy: share of them whose word is written and true.
        precision: of those whose word is written, the share whose word is true.
        coverage: share of them whose word is written.
        ece: expected calibration error in 15 bins of equal width; null where nothing calibrates.
        ece_equal_mass: the same in 15 bins of equal mass.
        ece_by_chance: what it would be of perfect probabilities on so few images, with equal mass.
        aurc: area under the risk-coverage curve; null where nothing calibrates.
    """

    images: int
    accuracy: float | None
    accuracy_interval: Bounds
    precision: float | None
    precision_interval: Bounds
    coverage: float | None
    coverage_interval: Bounds
    ece: float | None
    ece_interval: Bounds
    ece_equal_mass: float | None
    ece_by_chance: float | None
    aurc: float | None


@dataclass(frozen=True)
class ReliabilityPoint:
    """A row of ``metrics/plots/reliability/{group}.csv``: a bin of equal mass.

    Attributes:
        probability: the mean of its images.
        accuracy: the share of them whose best word is true.
        low: of its 95 % interval; the accuracy where there is none.
        high: as ``low``.
        images: how many.
    """

    probability: float
    accuracy: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class RiskCoveragePoint:
    """A row of ``metrics/plots/risk_coverage/{group}.csv``.

    Attributes:
        coverage: share of the images whose best word has the probability ``threshold`` at least.
        risk: share of these words that is not true.
        threshold: as above.
    """

    coverage: float
    risk: float
    threshold: float


@dataclass(frozen=True)
class Certainty:
    """What a group's test images say.

    Attributes:
        figures: for metrics.
        reliability: the diagram's points, in rising order; none where nothing calibrates.
        curve: the risk-coverage curve's, in rising order; none likewise.
    """

    figures: HeldOut
    reliability: Sequence[ReliabilityPoint]
    curve: Sequence[RiskCoveragePoint]


class HeldOutWords:
    """Gathers a group's words of test images whose truth is known; 14 bytes an image and its id."""

    def __init__(self) -> None:
        self._probability: list[NDArray[np.float32]] = []
        self._right: list[NDArray[np.bool_]] = []
        self._written: list[NDArray[np.bool_]] = []
        self._products: list[str] = []

    def add(
        self,
        probability: NDArray[np.float32] | None,
        right: NDArray[np.bool_],
        written: NDArray[np.bool_],
        products: Sequence[str],
    ) -> None:
        """Some more images; arguments as :func:`judge_certainty`'s."""
        if probability is not None:
            self._probability.append(probability)
        self._right.append(right)
        self._written.append(written)
        self._products += products

    def judge(self) -> Certainty:
        """All of them together."""
        none = np.zeros(0, np.bool_)
        return judge_certainty(
            np.concatenate(self._probability) if self._probability else None,
            np.concatenate([none, *self._right]),
            np.concatenate([none, *self._written]),
            self._products,
        )


def judge_certainty(
    probability: NDArray[np.float32] | None,
    right: NDArray[np.bool_],
    written: NDArray[np.bool_],
    products: Sequence[str],
) -> Certainty:
    """Judge the best words of ``n`` test images whose truth is known; n may be 0.

    Args:
        probability: calibrated, of the best word, float32 ``[n]``; None where nothing calibrates.
        right: whether the best word is true, bool ``[n]``.
        written: whether it is in the prompt, bool ``[n]``.
        products: product_id of every image.

    Raises:
        ValueError: a probability is not in 0..1.
    """
    bootstrap = Bootstrap(product_codes(products))
    means = bootstrap.named(
        {
            "accuracy": (right & written, None),
            "precision": (right, written),
            "coverage": (written, None),
        }
    )
    figures = HeldOut(
        images=len(right),
        accuracy=means["accuracy"].value,
        accuracy_interval=means["accuracy"].bounds,
        precision=means["precision"].value,
        precision_interval=means["precision"].bounds,
        coverage=means["coverage"].value,
        coverage_interval=means["coverage"].bounds,
        ece=None,
        ece_interval=None,
        ece_equal_mass=None,
        ece_by_chance=None,
        aurc=None,
    )
    if probability is None or not len(right):
        return Certainty(figures, [], [])
    wide, even = equal_width(probability), equal_mass(probability)
    curve = risk_coverage(probability, right)
    error = calibration_error(reliability(probability, right, wide))
    figures["ece"] = error
    figures["ece_interval"] = _error_bounds(bootstrap, probability, right, wide, error)
    figures["ece_equal_mass"] = calibration_error(reliability(probability, right, even))
    figures["ece_by_chance"] = error_of_truthful(probability, even)
    figures["aurc"] = curve.area
    thinned = curve.thinned(CURVE_POINTS)
    return Certainty(
        figures,
        _points(bootstrap, probability, right, even),
        [
            RiskCoveragePoint(*point)
            for point in zip(
                thinned.coverage.tolist(),
                thinned.risk.tolist(),
                thinned.threshold.tolist(),
                strict=True,
            )
        ],
    )


def write_curves(groups: Mapping[str, Certainty], reliability: Path, risk_coverage: Path) -> None:
    """Write ``{group}.csv`` into two folders, which appear whole or not at all.

    A group without points has a header only, so that the set of files depends on the vocabulary
    alone.
    """
    with atomic_directory(reliability) as bins, atomic_directory(risk_coverage) as curves:
        for group, one in groups.items():
            _write_points(one.reliability, ReliabilityPoint, bins / f"{group}.csv")
            _write_points(one.curve, RiskCoveragePoint, curves / f"{group}.csv")


def _write_points(
    points: Sequence[ReliabilityPoint] | Sequence[RiskCoveragePoint],
    kind: type[ReliabilityPoint] | type[RiskCoveragePoint],
    path: Path,
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = CsvTable(file, list(kind.__dataclass_fields__))
        for point in points:
            table.write({name: round(value, 6) for name, value in asdict(point).items()})


def _points(
    bootstrap: Bootstrap,
    probability: NDArray[np.float32],
    right: NDArray[np.bool_],
    bins: NDArray[np.int64],
) -> list[ReliabilityPoint]:
    members = bins[:, None] == np.unique(bins)
    intervals = bootstrap.means(np.broadcast_to(right[:, None], members.shape), members)
    found = []
    for one, measured in zip(reliability(probability, right, bins), intervals, strict=True):
        low, high = measured.bounds or [one.accuracy, one.accuracy]
        found.append(ReliabilityPoint(one.probability, one.accuracy, low, high, one.images))
    return found


def _error_bounds(
    bootstrap: Bootstrap,
    probability: NDArray[np.float32],
    right: NDArray[np.bool_],
    bins: NDArray[np.int64],
    error: float,
) -> Bounds:
    """Of the calibration error, whose bins stay as they are in every draw."""
    members = bins[:, None] == np.unique(bins)
    gaps: NDArray[np.float64] = right.astype(np.float64) - probability
    gap_sums = bootstrap.sums(members * gaps[:, None])
    images = bootstrap.sums(np.ones((len(right), 1)))

    def drawn(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = np.abs(counts @ gap_sums).sum(axis=1, keepdims=True)
        return total / (counts @ images)

    samples = bootstrap.samples(drawn)[:, 0]
    return interval(error, samples, bootstrap.products(np.ones(len(right), np.bool_))).bounds
