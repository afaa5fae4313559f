"""Bins and the expected calibration error against sums written out, and the curve of risk."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from compositional_prompts.enhancement.calibration.calibration_error import (
    BINS,
    calibration_error,
    equal_mass,
    equal_width,
    error_of_truthful,
    reliability,
)
from compositional_prompts.enhancement.calibration.risk_coverage import risk_coverage


def drawn(seed, images=1000):
    """Probabilities, and whether each word is true: with just that probability."""
    random = np.random.default_rng(seed)
    probability = random.uniform(0.2, 1, images).astype(np.float32)
    return probability, random.uniform(size=images) < probability


def test_the_error_is_what_the_definition_says():
    probability, right = drawn(1)
    bins = equal_width(probability)
    gaps = []
    for place in range(BINS):
        members = [
            (float(p), bool(ok))
            for p, ok in zip(probability, right, strict=True)
            if place / BINS < float(p) <= (place + 1) / BINS
        ]
        if members:
            gap = math.fsum(p for p, _ in members) - sum(ok for _, ok in members)
            gaps.append(abs(gap) / len(probability))
    found = reliability(probability, right, bins)
    assert calibration_error(found) == pytest.approx(math.fsum(gaps), rel=1e-12)
    assert sum(one.images for one in found) == len(probability)
    assert all(one.low <= one.probability <= one.high for one in found)


def test_bins_of_equal_mass_hold_as_many_and_keep_ties_together():
    probability, right = drawn(2, 152)
    sizes = [one.images for one in reliability(probability, right, equal_mass(probability))]
    assert len(sizes) == BINS
    assert set(sizes) == {10, 11}
    tied = np.float32([0.5] * 20 + [0.9] * 10)
    shuffled = np.random.default_rng(3).permutation(tied)
    assert len({int(b) for b in equal_mass(shuffled)[shuffled == np.float32(0.5)]}) == 1
    assert len(reliability(tied, tied > 0.6, equal_mass(tied))) == 2


def test_edges_of_bins():
    assert equal_width(np.array([0, 1e-9, 1 / BINS, 2 / BINS, 1.0])).tolist() == [0, 0, 0, 1, 14]
    assert equal_mass(np.float32([0.4])).tolist() == [BINS - 1]


@pytest.mark.parametrize(("right", "error"), [(True, 0.25), (False, 0.75)])
def test_all_right_and_all_wrong(right, error):
    probability = np.full(9, 0.75, np.float32)
    outcome = np.full(9, right)
    for binned in (equal_width, equal_mass):
        found = reliability(probability, outcome, binned(probability))
        assert calibration_error(found) == pytest.approx(error)


def test_what_truthful_probabilities_would_show():
    """The formula against the mean over truths that are drawn by the probabilities."""
    probability, _ = drawn(4, 600)
    bins = equal_mass(probability)
    random = np.random.default_rng(5)
    errors = [
        calibration_error(reliability(probability, random.uniform(size=600) < probability, bins))
        for _ in range(300)
    ]
    assert error_of_truthful(probability, bins) == pytest.approx(np.mean(errors), rel=0.05)
    sure = np.ones(4, np.float32)
    assert error_of_truthful(sure, equal_width(sure)) == 0


def test_the_area_is_the_mean_over_every_order_of_ties():
    probability = np.array([0.9, 0.5, 0.5, 0.5, 0.2])
    right = np.array([False, True, False, True, True])
    areas = []
    for middle in itertools.permutations([1, 2, 3]):
        wrong, sums = 0, Fraction(0)
        for k, image in enumerate((0, *middle, 4), 1):
            wrong += int(not right[image])
            sums += Fraction(wrong, k)
        areas.append(sums / 5)
    curve = risk_coverage(probability, right)
    assert curve.area == pytest.approx(float(sum(areas) / len(areas)))
    assert curve.coverage.tolist() == [0.2, 0.8, 1.0]
    assert curve.threshold.tolist() == [0.9, 0.5, 0.2]
    assert curve.risk == pytest.approx([1, 0.5, 0.4])


def test_the_curve_does_not_depend_on_the_order_of_images():
    probability, right = drawn(6, 300)
    probability = probability.round(1)
    order = np.random.default_rng(7).permutation(300)
    one, other = risk_coverage(probability, right), risk_coverage(probability[order], right[order])
    assert one.area == other.area
    assert one.risk.tolist() == other.risk.tolist()
    assert one.risk[-1] == pytest.approx(1 - right.mean())


def test_the_curve_of_one_image_and_of_many():
    one = risk_coverage(np.float32([0.3]), np.array([False]))
    assert (one.coverage.tolist(), one.risk.tolist(), one.area) == ([1], [1], 1)
    assert risk_coverage(*drawn(8, 50)).thinned(200).coverage.size == 50
    thin = risk_coverage(*drawn(8)).thinned(20)
    assert thin.coverage.size == 20
    assert (thin.coverage[0], thin.coverage[-1]) == (0.001, 1)


def test_none_and_no_number_are_refused():
    with pytest.raises(ValueError, match="no probability"):
        equal_width(np.array([]))
    with pytest.raises(ValueError, match=r"must be in 0\.\.1, found nan"):
        risk_coverage(np.array([0.5, np.nan]), np.array([True, True]))
    with pytest.raises(ValueError, match=r"found 0\.5 to 1\.5"):
        equal_mass(np.array([0.5, 1.5]))
