"""Validation images calibrate a group's scorer."""

from __future__ import annotations

import logging
from dataclasses import replace

from compositional_prompts.enhancement.calibration.group_calibration import (
    CalibrationFigures,
    calibrate_group,
)
from compositional_prompts.enhancement.fitting.labelled_images import LabelledImages
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.word_scorer import GroupScorer

log = logging.getLogger(__name__)


def calibrate_scorer(
    group: str, scorer: GroupScorer, validation: LabelledImages, params: Enhance
) -> tuple[GroupScorer, CalibrationFigures]:
    """The scorer with a temperature, and with a least probability where a precision is wanted.

    Words that ``enhance.threshold`` leaves out, with the method cosine, are not written whatever
    their probability, so the precision is that of the others.

    Args:
        group: its name.
        scorer: of words; what it was learnt from must not be in ``validation``.
        validation: images with truth of the group, maybe none.
        params: the section ``enhance``.

    Raises:
        ValueError: the scorer needs colours that are not there, or a score is not finite.
    """
    images = validation.known_of_group(group)
    scores = scorer.scores(images.vectors, images.colors.get(group))
    eligible = scorer.choose(scores, params.threshold).chosen
    found = calibrate_group(
        group, scores, images.truth[group], images.products, params.abstain, eligible
    )
    for warning in found.figures["warnings"]:
        log.warning("%s", warning)
    calibrated = replace(scorer, calibration=found.temperature, abstain_below=found.abstain_below)
    return calibrated, found.figures
