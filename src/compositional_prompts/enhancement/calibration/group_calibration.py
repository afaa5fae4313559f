"""What validation images say of a group's scores: their temperature, and when to abstain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.enhancement.calibration.abstention import (
    DOUBT,
    Abstention,
    choose_abstention,
)
from compositional_prompts.enhancement.calibration.temperature import (
    Temperature,
    fit_temperature,
    mean_loss,
)

NEVER: Final = 2.0
"""A least probability that no word has: nothing is written."""


class Promise(TypedDict):
    """What came of the wanted precision, ``enhance.abstain``.

    Attributes:
        precision: what is wanted.
        below: the least probability at which a word is written; null: none is.
        products: validation products with truth.
        least_products: without so many of them no threshold can be trusted.
        val_precision: on the validation images, which chose the threshold; null where none did.
        val_coverage: share of the validation images with truth whose word would be written.
    """

    precision: float
    below: float | None
    products: int
    least_products: int
    val_precision: float | None
    val_coverage: float


class CalibrationFigures(TypedDict):
    """For metrics.

    Attributes:
        temperature: what scores are divided by; null where no validation image has a true word of
            the group.
        outside: share of the validation images with truth whose truth is no word of the group.
        val_nll: mean of minus the logarithm of the true word's probability, over the others.
        abstain: null where no precision is wanted.
        warnings: sentences.
    """

    temperature: float | None
    outside: float | None
    val_nll: float | None
    abstain: Promise | None
    warnings: Sequence[str]


@dataclass(frozen=True)
class GroupCalibration:
    """What calibrates a group.

    Attributes:
        temperature: None where nothing does.
        abstain_below: the least probability at which a word is written, ``NEVER`` where none is;
            None where no precision is wanted.
        figures: for metrics.
    """

    temperature: Temperature | None
    abstain_below: float | None
    figures: CalibrationFigures


def calibrate_group(
    group: str,
    scores: NDArray[np.float32],
    true: NDArray[np.bool_],
    products: NDArray[np.int64],
    wanted: float | None,
    eligible: NDArray[np.bool_] | None = None,
) -> GroupCalibration:
    """Calibrate the scores of ``n`` validation images whose truth is known, maybe none.

    Args:
        group: its name, for sentences.
        scores: float32 ``[n, words]``.
        true: bool ``[n, words]``; none in a row whose truth is no word of the group.
        products: code of each image's product, int64 ``[n]``.
        wanted: the precision, or None.
        eligible: bool ``[n]``, images whose word another rule lets through; None for all. The
            precision is that of the words both let through.

    Raises:
        ValueError: a score is not finite, or ``wanted`` is not above 0 and below 1.
    """
    temperature = fit_temperature(scores, true, np.ones(len(scores), np.bool_))
    figures = CalibrationFigures(
        temperature=None,
        outside=None,
        val_nll=None,
        abstain=None,
        warnings=[],
    )
    best = scores.argmax(axis=1)
    right = true[np.arange(len(scores)), best]
    probability = np.zeros(len(scores), np.float32)
    open_ = np.zeros(len(scores), np.bool_)
    if temperature is not None:
        figures["temperature"] = temperature.temperature
        figures["outside"] = temperature.outside
        loss = mean_loss(scores, true, temperature.temperature)
        figures["val_nll"] = loss
        open_ = np.ones_like(open_) if eligible is None else eligible
        probability = temperature.probabilities(scores)[np.arange(len(scores)), best]
    if wanted is None:
        return GroupCalibration(temperature, None, figures)
    found = choose_abstention(probability[open_], right[open_], products[open_], wanted)
    share = float(open_.mean()) if len(open_) else 0.0
    figures["abstain"] = Promise(
        precision=wanted,
        below=found.below,
        products=found.products,
        least_products=found.least_products,
        val_precision=found.precision,
        val_coverage=found.coverage * share,
    )
    if found.below is None:
        figures["warnings"] = [_nothing_written(group, found)]
    return GroupCalibration(temperature, NEVER if found.below is None else found.below, figures)


def _nothing_written(group: str, found: Abstention) -> str:
    known = f"{found.products} validation product{'s' if found.products != 1 else ''} with truth"
    if not found.products:
        why = "no validation image has a word of the group that is known to be true"
    elif found.products < found.least_products:
        why = f"there are {known}, and it takes at least {found.least_products}"
    else:
        why = f"on {known} no probability shows it with {1 - DOUBT:.0%} confidence"
    return (
        f"No {group} is written: enhance.abstain wants a precision of {found.wanted:g}, and {why}. "
        "Give more truth, take another method, or want less."
    )
