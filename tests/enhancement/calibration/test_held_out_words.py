"""Figures of test images against sums written out, and their files."""

import csv

import numpy as np
import pytest

from compositional_prompts.enhancement.calibration.calibration_error import (
    calibration_error,
    equal_mass,
    equal_width,
    reliability,
)
from compositional_prompts.enhancement.calibration.held_out_words import (
    CURVE_POINTS,
    HeldOutWords,
    judge_certainty,
    write_curves,
)
from compositional_prompts.results.bootstrap import Bootstrap, product_codes


def drawn(seed=1, images=300):
    random = np.random.default_rng(seed)
    probability = random.uniform(0.3, 1, images).astype(np.float32)
    products = [f"product {number // 3}" for number in range(images)]
    return probability, random.uniform(size=images) < probability, probability > 0.7, products


def test_figures_are_those_of_the_definitions():
    probability, right, written, products = drawn()
    found = judge_certainty(probability, right, written, products)
    figures = found.figures
    assert figures["images"] == 300
    assert figures["accuracy"] == pytest.approx((right & written).mean())
    assert figures["precision"] == pytest.approx(right[written].mean())
    assert figures["coverage"] == pytest.approx(written.mean())
    wide = reliability(probability, right, equal_width(probability))
    even = reliability(probability, right, equal_mass(probability))
    assert figures["ece"] == calibration_error(wide)
    assert figures["ece_equal_mass"] == calibration_error(even)
    for name in ("accuracy", "precision", "coverage"):
        low, high = figures[f"{name}_interval"]
        assert low < figures[name] < high
    assert [point.images for point in found.reliability] == [one.images for one in even]
    assert all(point.low <= point.accuracy <= point.high for point in found.reliability)
    assert len(found.curve) == CURVE_POINTS
    assert found.curve[-1].coverage == 1
    assert found.curve[-1].risk == pytest.approx(1 - right.mean())


def test_the_interval_of_the_error_is_that_of_products_drawn_again():
    probability, right, written, products = drawn(2, 120)
    bins = equal_width(probability)
    bootstrap = Bootstrap(product_codes(products))
    errors = []
    for counts in bootstrap.counts():
        for draw in counts[:400]:
            weight = draw[bootstrap.drawn]
            gaps = [
                abs(np.sum((weight * (right - probability.astype(np.float64)))[bins == place]))
                for place in range(15)
            ]
            errors.append(sum(gaps) / weight.sum())
        break
    low, high = judge_certainty(probability, right, written, products).figures["ece_interval"]
    assert np.quantile(errors, [0.025, 0.975]) == pytest.approx([low, high], abs=0.02)


def test_without_probabilities_the_words_are_judged_alone():
    _, right, written, products = drawn()
    found = judge_certainty(None, right, written, products)
    assert found.figures["precision"] == pytest.approx(right[written].mean())
    assert (found.figures["ece"], found.figures["aurc"]) == (None, None)
    assert (found.reliability, found.curve) == ([], [])


def test_no_image_one_image_and_no_word_written():
    none = np.zeros(0, bool)
    empty = judge_certainty(np.zeros(0, np.float32), none, none, [])
    assert empty.figures["images"] == 0
    assert all(value is None for name, value in empty.figures.items() if name != "images")
    yes = np.ones(1, bool)
    one = judge_certainty(np.float32([0.75]), yes, yes, ["a"]).figures
    assert (one["precision"], one["precision_interval"]) == (1, None)
    assert (one["ece"], one["ece_interval"]) == (0.25, None)
    probability, right, written, products = drawn()
    silent = judge_certainty(probability, right, np.zeros_like(written), products).figures
    assert (silent["precision"], silent["precision_interval"]) == (None, None)
    assert (silent["coverage"], silent["accuracy"]) == (0, 0)
    assert silent["ece"] > 0


def test_curves_are_written_as_tables(tmp_path):
    probability, right, written, products = drawn()
    words = HeldOutWords()
    for part in (slice(0, 100), slice(100, 100), slice(100, 300)):
        words.add(probability[part], right[part], written[part], products[part])
    found = words.judge()
    assert found == judge_certainty(probability, right, written, products)
    groups = {"color": found, "material": HeldOutWords().judge()}
    write_curves(groups, tmp_path / "bins", tmp_path / "curves")
    with (tmp_path / "curves/color.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["coverage", "risk", "threshold"]
    assert float(rows[-1]["risk"]) == pytest.approx(found.curve[-1].risk, abs=1e-6)
    header = "probability,accuracy,low,high,images\n"
    assert (tmp_path / "bins/material.csv").read_text() == header
