"""Temperature scaling against float64 sums written out, and at its edges."""

import math

import numpy as np
import pytest

from compositional_prompts.enhancement.calibration.temperature import (
    Temperature,
    fit_temperature,
    mean_loss,
)


def made_up(seed, images=400, words=6, *, sharpness=3.0, several=False):
    """Scores, and truth drawn by the softmax of ``sharpness`` times them."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 1, (images, words)).astype(np.float32)
    p = np.exp(sharpness * scores.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    true = np.zeros((images, words), bool)
    for row in range(images):
        true[row, random.choice(words, p=p[row])] = True
    if several:
        true[::3, 0] = True
    return scores, true


def written_out(scores, true, temperature):
    """The loss that is minimised, word by word."""
    total, smooth, count = 0.0, 0.0, 0
    for row, is_true in zip(scores.tolist(), true.tolist(), strict=True):
        if not any(is_true):
            continue
        raised = [math.exp((score - max(row)) / temperature) for score in row]
        p = [one / math.fsum(raised) for one in raised]
        total -= math.log(math.fsum(one for one, here in zip(p, is_true, strict=True) if here))
        smooth -= math.fsum(map(math.log, p)) / len(p)
        count += 1
    return total / count, total / count + smooth / count / count


@pytest.mark.parametrize("several", [False, True])
def test_no_other_temperature_has_a_smaller_loss(several):
    scores, true = made_up(3, several=several)
    fitted = fit_temperature(scores, true, np.ones(len(scores), bool))
    if not several:
        assert fitted.temperature == pytest.approx(1 / 3, rel=0.1)  # what truth was drawn by
    plain, least = written_out(scores, true, fitted.temperature)
    assert mean_loss(scores, true, fitted.temperature) == pytest.approx(plain, rel=1e-12)
    for factor in (0.2, 0.9, 0.999, 1.001, 1.1, 5):
        assert written_out(scores, true, fitted.temperature * factor)[1] > least
    # Flat to the last digits: the loss rises with the square of a step away from the minimum.
    near = written_out(scores, true, fitted.temperature * (1 + 1e-7))[1]
    assert near - least < 1e-12


def test_scale_and_offset_of_scores_do_not_matter():
    scores, true = made_up(5)
    known = np.ones(len(scores), bool)
    plain = fit_temperature(scores, true, known)
    cosines = fit_temperature((0.02 * scores + 0.2).astype(np.float32), true, known)
    assert cosines.temperature == pytest.approx(0.02 * plain.temperature, rel=1e-4)


def test_truth_outside_the_vocabulary_takes_its_share():
    scores, true = made_up(7)
    known = np.ones(len(scores), bool)
    inside = fit_temperature(scores, true, known)
    true[:100] = False
    outside = fit_temperature(scores, true, known)
    assert (inside.outside, outside.outside) == (0, 0.25)
    assert outside.probabilities(scores).sum(axis=1) == pytest.approx(0.75, abs=1e-6)
    known[:100] = False  # not known is not outside
    assert fit_temperature(scores, true, known).outside == 0


def test_scores_that_are_never_wrong_keep_a_finite_temperature():
    true = np.eye(4, dtype=bool)[np.arange(40) % 4]
    fitted = fit_temperature(true.astype(np.float32), true, np.ones(40, bool))
    p = fitted.probabilities(true.astype(np.float32)).max(axis=1)
    assert 0.97 < p.min() < 1
    one = fit_temperature(np.float32([[1, 0]]), np.array([[True, False]]), np.array([True]))
    assert one.probabilities(np.float32([[1, 0]]))[0, 0] == pytest.approx(0.75, abs=1e-4)


def test_scores_that_are_worse_than_nothing_give_all_words_the_same():
    scores, true = made_up(9)
    fitted = fit_temperature(-scores, true, np.ones(len(scores), bool))
    assert fitted.probabilities(-scores) == pytest.approx(1 / 6, abs=2e-3)


def test_one_word_and_equal_scores_and_no_images():
    true = np.array([[True], [False], [True], [True]])
    scores = np.float32([[0.1], [0.2], [0.3], [0.4]])
    fitted = fit_temperature(scores, true, np.ones(4, bool))
    assert fitted == Temperature(1.0, 0.25)
    assert fitted.probabilities(scores).tolist() == [[0.75]] * 4
    assert fitted.probabilities(scores[:0]).shape == (0, 1)
    equal = fit_temperature(np.zeros((3, 2), np.float32), np.eye(3, 2) > 0, np.arange(3) < 2)
    assert equal == Temperature(1.0, 0.0)


def test_without_validation_truth_nothing_calibrates():
    scores, true = made_up(11)
    known = np.ones(len(scores), bool)
    assert fit_temperature(scores, true, ~known) is None
    assert fit_temperature(scores, np.zeros_like(true), known) is None
    assert fit_temperature(scores[:0], true[:0], known[:0]) is None
    assert mean_loss(scores, np.zeros_like(true), 1.0) is None


def test_what_is_no_number_is_refused():
    scores, true = made_up(13)
    scores[5, 2] = np.nan
    with pytest.raises(ValueError, match="1 of 400 images are not finite, the first in row 5"):
        fit_temperature(scores, true, np.ones(len(scores), bool))
    with pytest.raises(ValueError, match="not finite"):
        Temperature(1.0, 0.0).probabilities(np.float32([[np.inf, 0]]))
    with pytest.raises(ValueError, match="same images and words"):
        fit_temperature(scores[:3], true, np.ones(len(scores), bool))
