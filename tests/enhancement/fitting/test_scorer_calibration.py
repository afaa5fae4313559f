"""Validation images calibrate a scorer, and the artifact keeps what they say."""

import re
from dataclasses import replace

import numpy as np
import pytest

from compositional_prompts.enhancement.calibration.group_calibration import NEVER
from compositional_prompts.enhancement.fitting.labelled_images import LabelledImages
from compositional_prompts.enhancement.fitting.scorer_calibration import calibrate_scorer
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.word_scorer import (
    GroupScorer,
    WordScorer,
    load_word_scorer,
)
from compositional_prompts.files.outputs import DamagedOutputError

WORDS = ("black", "white", "red")
PARAMS = Enhance(
    method="cosine",
    methods=[],
    templates=["{}"],
    learn_images=1000,
    abstain=0.8,
    threshold=0.2,
    fallback="unspecified",
    reference_colors=[],
    altered_copies=0,
    stability_images=100,
)


def validation(images=400):
    """Vectors near to the word that is true, in the first half; of others nothing is known."""
    random = np.random.default_rng(19)
    place = random.integers(0, 3, images)
    vectors = 0.5 * np.eye(3, 8)[place] + random.normal(0, 0.25, (images, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = np.arange(images) < images // 2
    return LabelledImages(
        vectors.astype(np.float32),
        {},
        {"color": np.eye(3, dtype=bool)[place] & known[:, None]},
        {"color": known},
        np.arange(images),
    )


SCORER = GroupScorer(WORDS, "cosine", np.eye(3, 8, dtype=np.float32))


def test_the_precision_is_that_of_words_above_the_threshold():
    images = validation()
    strict = PARAMS.model_copy(update={"threshold": 0.6})
    found, figures = calibrate_scorer("color", SCORER, images, strict)
    known = images.known_of_group("color")
    assert len(known) == 200
    choice = found.choose(found.scores(known.vectors), 0.6)
    assert 0 < choice.chosen.sum() < 200
    right = known.truth["color"][np.arange(200), choice.best]
    promise = figures["abstain"]
    assert promise["val_precision"] == pytest.approx(right[choice.chosen].mean())
    assert promise["val_coverage"] == pytest.approx(choice.chosen.mean())
    assert promise["products"] == (choice.score > np.float32(0.6)).sum()


def test_images_of_which_nothing_is_known_change_nothing():
    images = validation()
    fewer = images.take(np.arange(200))
    assert (
        calibrate_scorer("color", SCORER, images, PARAMS)[1]
        == (calibrate_scorer("color", SCORER, fewer, PARAMS)[1])
    )


def test_calibration_is_kept_by_the_artifact(tmp_path):
    calibrated, _ = calibrate_scorer("color", SCORER, validation(), PARAMS)
    nothing, _ = calibrate_scorer("color", SCORER, validation(0), PARAMS)
    assert (nothing.calibration, nothing.abstain_below) == (None, NEVER)
    WordScorer({"color": calibrated, "other": nothing}).save(tmp_path / "scorer")
    read = load_word_scorer(tmp_path / "scorer")
    for name, one in {"color": calibrated, "other": nothing}.items():
        assert replace(read.groups[name], vectors=one.vectors) == one
    scores = calibrated.scores(validation().vectors)
    assert np.array_equal(
        read.groups["color"].probabilities(scores), calibrated.probabilities(scores)
    )
    config = tmp_path / "scorer/config.json"
    written = config.read_text()
    config.write_text(re.sub(r'"temperature": [\d.]+', '"temperature": 0', written))
    with pytest.raises(DamagedOutputError, match=r"config\.json .*its checksum is another"):
        load_word_scorer(tmp_path / "scorer")
    assert nothing.probabilities(scores) is None
    assert not nothing.choose(scores, 0.2).chosen.any()


def test_without_a_wanted_precision_words_are_the_same(tmp_path):
    images = validation()
    plain = PARAMS.model_copy(update={"abstain": None})
    calibrated, figures = calibrate_scorer("color", SCORER, images, plain)
    assert figures["abstain"] is None
    scores = SCORER.scores(images.vectors)
    assert np.array_equal(calibrated.scores(images.vectors), scores)
    assert np.array_equal(calibrated.choose(scores, 0.2).chosen, SCORER.choose(scores, 0.2).chosen)
