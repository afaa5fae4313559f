"""Weights of the score, chosen on validation images once a model is trained.

Beside Troika's two terms stands the logit of the frozen CLIP: a share of it in the place of as
much of the composition logit, as CLIP-Adapter (Gao et al., 2021) and WiSE-FT (Wortsman et al.,
CVPR 2022) keep a share of what was there before training.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from compositional_prompts.troika.evaluation.czsl_metrics import czsl_metrics
from compositional_prompts.troika.evaluation.judging import Judgements, World, judge
from compositional_prompts.troika.model.branch_scores import BranchScores, ScoreMix
from compositional_prompts.troika.model.network import Troika, primitive_product
from compositional_prompts.troika.pair_scoring import Scorer
from compositional_prompts.troika.training.pixel_cache import Normalizer
from compositional_prompts.troika.training.troika_curve import (
    Selection,
    selected_figure,
    validation_columns,
)
from compositional_prompts.troika.training.troika_trainer import Labelled, judged_in_order

log = logging.getLogger(__name__)

ZERO_SHOT_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the logits; the rest is the composition branch's."""

PRIMITIVE_WEIGHTS: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the product of probabilities, which is at most 1 where logits differ by several."""

LEAST_IMAGES: Final = 100
"""Validation images that it takes: of fewer an accuracy is off by 5 points (0.5 / sqrt(100))."""


@dataclass(frozen=True)
class ScoreChoice:
    """The weights to score by.

    Attributes:
        mix: the weights.
        chosen_by: ``validation``, or ``fixed``: those of the parameters.
        selection: what the best weights have most of, as of the best epoch.
        value: how much they have of it; None where nothing was compared.
        value_fixed: how much the weights of the parameters have of it.
    """

    mix: ScoreMix
    chosen_by: Literal["fixed", "validation"]
    selection: Selection | None = None
    value: float | None = None
    value_fixed: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As ``metrics/troika_train.json`` has it."""
        document: dict[str, Any] = {"chosen_by": self.chosen_by, **self.mix._asdict()}
        if self.selection is not None:
            document[self.selection] = self.value
            document[f"{self.selection}_fixed"] = self.value_fixed
        return document


def candidate_mixes(fixed: ScoreMix) -> list[ScoreMix]:
    """What is tried: the fixed weights first, then a grid."""
    grid = (
        ScoreMix(1 - share, weight, share)
        for share, weight in product(ZERO_SHOT_SHARES, PRIMITIVE_WEIGHTS)
    )
    return [fixed, *(mix for mix in grid if mix != fixed)]


@torch.inference_mode()
def choose_score_weights(
    model: Troika,
    tensors: Mapping[str, Tensor],
    validation: Labelled,
    zero_shot: Scorer,
    selection: Selection,
    batch_size: int,
    normalizer: Normalizer,
    accelerator: Accelerator | None = None,
) -> ScoreChoice:
    """The weights with the highest AUC on validation, or what else chose the epoch.

    Of equal ones the fixed weights stay, else the first of :func:`candidate_mixes`. Fewer than
    :data:`LEAST_IMAGES` validation images choose nothing. Memory is some 30 bytes an image and
    candidate: scores pass by in batches, which the processes of ``accelerator`` share.

    Args:
        model: put into evaluation mode, with ``tensors`` in it; its configuration has the fixed
            weights.
        tensors: of the best epoch.
        validation: validation images; its candidates are their closed world.
        zero_shot: scores the candidates in their order by the frozen CLIP.
        selection: what chose the epoch.
        batch_size: images at once.
        normalizer: from pixels to pixel_values.
        accelerator: the processes that share the work; all get the same choice.
    """
    fixed = model.config.score_mix
    if len(validation) < LEAST_IMAGES:
        log.info(
            "%d validation images are too few to choose score weights by, which takes %d: those "
            "of troika_train.score_weights stay",
            len(validation),
            LEAST_IMAGES,
        )
        return ScoreChoice(fixed, "fixed")
    model.load_state_dict(dict(tensors), strict=False)
    model.eval()
    world = World.of(validation.pairs, validation.seen)
    texts = model.encode_text(validation.pairs)
    mixes = candidate_mixes(fixed)
    device = validation.pairs.device

    def judged(rows: Tensor) -> list[Judgements]:
        pixel_values = normalizer.to_pixel_values(validation.pixels[rows].to(device))
        logits = model.branch_logits(model.encode_image(pixel_values), texts)
        probabilities = logits.attribute.softmax(dim=-1), logits.object.softmax(dim=-1)
        branches = BranchScores(
            logits.composition,
            primitive_product(*probabilities, validation.pairs),
            zero_shot(pixel_values).scores(),
        )
        truth = validation.columns[rows].to(device)
        return [judge(branches.joined(mix), truth, world) for mix in mixes]

    batches = judged_in_order(judged, len(validation), batch_size, accelerator)
    values = []
    alone = selection == "val_object_accuracy"
    for of_mix in zip(*batches, strict=True):
        metrics = czsl_metrics(Judgements.concatenate(of_mix))
        figures = validation_columns(metrics, objects_alone=alone)
        value = selected_figure(selection, figures)
        assert value is not None  # there are images of the kinds that the selection needs
        values.append(value)
    best = values.index(max(values))
    log.info("score weights %s: %s %.4f, and %.4f by the fixed ones",
             tuple(mixes[best]), selection, values[best], values[0])  # fmt: skip
    return ScoreChoice(mixes[best], "validation", selection, values[best], values[0])
