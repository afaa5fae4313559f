"""A group's temperature and threshold together, and what is said where there are none."""

import numpy as np
import pytest

from compositional_prompts.enhancement.calibration.abstention import least_products
from compositional_prompts.enhancement.calibration.group_calibration import (
    NEVER,
    calibrate_group,
)


def made_up(images=600, outside=60):
    random = np.random.default_rng(3)
    place = random.integers(0, 4, images)
    scores = (3 * np.eye(4)[place] + random.normal(0, 1, (images, 4))).astype(np.float32)
    true = np.eye(4, dtype=bool)[place]
    true[:outside] = False
    return scores, true, np.arange(images)


def test_words_from_the_threshold_on_are_as_precise_as_wanted():
    scores, true, products = made_up()
    found = calibrate_group("color", scores, true, products, 0.85)
    assert found.figures["outside"] == pytest.approx(0.1)
    probability = found.temperature.probabilities(scores)
    written = probability.max(axis=1) >= np.float32(found.abstain_below)
    right = true[np.arange(600), scores.argmax(axis=1)]
    promise = found.figures["abstain"]
    assert promise["below"] == found.abstain_below
    assert promise["val_precision"] == pytest.approx(right[written].mean())
    assert promise["val_coverage"] == pytest.approx(written.mean())
    assert 0.85 < right[written].mean() < 1
    assert found.figures["warnings"] == []


def test_another_rule_lets_fewer_words_through():
    scores, true, products = made_up()
    eligible = np.arange(600) % 2 == 0
    found = calibrate_group("color", scores, true, products, 0.75, eligible)
    promise = found.figures["abstain"]
    written = (found.temperature.probabilities(scores).max(axis=1) >= promise["below"]) & eligible
    assert promise["products"] == 300
    assert promise["val_coverage"] == pytest.approx(written.mean())


def test_no_precision_is_wanted():
    found = calibrate_group("color", *made_up(), None)
    assert found.temperature is not None
    assert (found.abstain_below, found.figures["abstain"]) == (None, None)


def test_nothing_is_written_where_nothing_is_known():
    scores, true, products = made_up()
    for some in (slice(0, 0), slice(0, 60)):
        found = calibrate_group("color", scores[some], true[some], products[some], 0.9)
        assert (found.temperature, found.abstain_below) == (None, NEVER)
        (sentence,) = found.figures["warnings"]
        assert "no validation image has a word of the group" in sentence


def test_nothing_is_written_where_too_little_is_known_or_too_much_is_wrong():
    scores, true, products = made_up(20, 0)
    found = calibrate_group("color", scores, true, products, 0.9)
    assert found.abstain_below == NEVER
    (sentence,) = found.figures["warnings"]
    assert f"20 validation products with truth, and it takes at least {least_products(0.9)}" in (
        sentence
    )
    scores, true, products = made_up(600, 300)
    found = calibrate_group("color", scores, true, products, 0.9)
    assert found.abstain_below == NEVER
    assert found.figures["abstain"]["below"] is None
    assert "no probability shows it with 90% confidence" in found.figures["warnings"][0]


def test_no_word_is_let_through_by_another_rule():
    scores, true, products = made_up()
    found = calibrate_group("color", scores, true, products, 0.85, np.zeros(600, bool))
    assert found.abstain_below == NEVER
    assert found.temperature is not None
