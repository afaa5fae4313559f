"""Training on a catalog: from its shards and splits to a model directory."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from compositional_prompts.clip.open_clip_model import Clip, load_clip
from compositional_prompts.compute.devices import resolve_device, seed_everything
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.compute.training.learning_curve import spread
from compositional_prompts.pipeline.section import Base
from compositional_prompts.troika.model.model_folder import save_model
from compositional_prompts.troika.model.network import BLOCK_BYTES, Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import (
    LabelledImages,
    Vocabulary,
    labelled_images,
)
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.pixel_cache import Normalizer, decode_pixels
from compositional_prompts.troika.training.score_choice import ScoreChoice, choose_score_weights
from compositional_prompts.troika.training.troika_curve import TroikaEpoch
from compositional_prompts.troika.training.troika_trainer import Labelled, TrainingOutcome, fit
from compositional_prompts.troika.zero_shot import ZeroShot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingReport:
    """Images gone through (an image counts once an epoch; after a checkpoint, the rest), metrics,
    and the training curve.
    """

    rows: int
    metrics: dict[str, Any]
    records: list[TroikaEpoch]


def _labelled(
    images: LabelledImages,
    pixels: Tensor,
    columns: NDArray[np.int64],
    vocabulary: Vocabulary,
    device: torch.device,
) -> Labelled:
    """Images as the loop wants them, with the pairs at ``columns`` as their candidates."""
    place = np.full(len(vocabulary.pairs), -1)
    place[columns] = np.arange(len(columns))
    seen = np.array(vocabulary.seen, dtype=bool)[columns]
    return Labelled(
        pixels=pixels,
        columns=torch.from_numpy(place[images.pairs]),
        pairs=torch.from_numpy(vocabulary.pair_indices[columns]).to(device),
        seen=torch.from_numpy(seen).to(device),
    )


def parameter_counts(clip: Clip, model: Troika | None) -> dict[str, int]:
    """How many numbers both have together, and how many of them are trained."""
    trainable = 0
    if model is not None:
        trainable = sum(part.numel() for part in model.parameters() if part.requires_grad)
    frozen = sum(part.numel() for part in clip.model.parameters())
    return {"total": frozen + trainable, "trainable": trainable}


def _outcome_metrics(outcome: TrainingOutcome) -> dict[str, Any]:
    losses = [record.train_loss for record in outcome.records]
    best = asdict(outcome.records[outcome.state.best_epoch - 1])
    return {
        "epochs": outcome.state.epochs,
        "best_epoch": outcome.state.best_epoch,
        "selection": outcome.selection,
        "train_loss": spread(losses),
        "best": {key: value for key, value in best.items() if key != "epoch"},
    }


def train(
    catalog: Path,
    splits: Path,
    pairs: Path,
    clip_directory: Path,
    model_directory: Path,
    params: TroikaTrain,
    base: Base,
    *,
    accelerator: Accelerator | None = None,
    checkpoints: Checkpoints | None = None,
    curve: Path | None = None,
) -> TrainingReport:
    """Train on the images whose ``pair_split`` is train and write the model directory.

    The classes are the seen pairs; validation images are judged among these and validation's
    unseen pairs, and choose the epoch and the weights of the score. ``epochs: 0`` trains nothing
    and writes a directory that says so.

    Args:
        catalog: directory of image shards.
        splits: ``splits.parquet``.
        pairs: ``pairs.parquet``.
        clip_directory: the frozen CLIP.
        model_directory: where to; replaced if it is there.
        params: ``troika_train``.
        base: seed, device and workers.
        accelerator: the processes that train together; by default this one alone. Only the main
            one writes.
        checkpoints: where to go on from and what to write on the way; by default nothing. Images
            are decoded again: that is little beside an epoch, and they would fill the disk.
        curve: folder of the curve, which grows with every epoch; by default none.

    Raises:
        TrainingError: there is too little to train on, or the loss is no longer finite.
        CheckpointError: the checkpoint to go on from is damaged.
        UnsupportedClipError: the CLIP is no plain vision-transformer CLIP.
        ValueError: the tables and the catalog disagree, or the context is too long.
    """
    accelerator = accelerator or join_processes(resolve_device(base.device))
    device = accelerator.device
    seed_everything(base.seed)
    vocabulary = Vocabulary.read(pairs)
    training = labelled_images(splits, vocabulary, "train")
    validation = labelled_images(splits, vocabulary, "val")
    clip = load_clip(clip_directory, device)
    config = TroikaConfig.from_params(params)
    metrics: dict[str, Any] = {
        "mode": params.mode,
        "trained": params.epochs > 0,
        "images": {"train": len(training), "val": len(validation)},
        "pairs": {"seen": len(vocabulary.seen_columns), "all": len(vocabulary.pairs)},
        "epochs": 0,
    }
    if params.epochs == 0:
        metrics["parameters"] = parameter_counts(clip, None)
        if accelerator.is_main_process:
            save_model(model_directory, vocabulary, clip, config, None)
        return TrainingReport(0, metrics, [])
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if params.precision == "bfloat16" and emulated:
        log.warning("this GPU emulates bfloat16, slowly: set troika_train.precision to float32")
    model = Troika(clip, vocabulary, config)
    pixels = decode_pixels(
        catalog,
        clip,
        training.image_ids + validation.image_ids,
        base.workers,
        model_directory.parent,
        accelerator,
        splits,
    )
    measured = _labelled(
        validation, pixels[len(training) :], vocabulary.world("val"), vocabulary, device
    )
    normalizer = Normalizer(clip, device)
    by_validation = params.score_weights.chosen_by == "validation"
    zero_shot = None
    if by_validation or params.score_weights.zero_shot:
        zero_shot = ZeroShot(clip, vocabulary, measured.pairs, BLOCK_BYTES)
    outcome = fit(
        model,
        _labelled(training, pixels[: len(training)], vocabulary.seen_columns, vocabulary, device),
        measured,
        normalizer,
        params,
        base.seed,
        accelerator=accelerator,
        checkpoints=checkpoints,
        curve=curve,
        zero_shot=zero_shot if params.score_weights.zero_shot else None,
    )
    choice = ScoreChoice(config.score_mix, "fixed")
    if by_validation and zero_shot is not None:
        of = measured, zero_shot, outcome.selection, params.batch_size, normalizer, accelerator
        choice = choose_score_weights(model, outcome.state.best, *of)
        config = config.scored_by(choice.mix)
    if accelerator.is_main_process:
        save_model(model_directory, vocabulary, clip, config, outcome.state)
    accelerator.wait_for_everyone()
    metrics["parameters"] = parameter_counts(clip, model)
    metrics.update(_outcome_metrics(outcome))
    if outcome.learnt_nothing:
        said = (
            f"Troika has learnt nothing: {outcome.learnt_nothing}. The pairs that it names mean "
            "nothing: lower troika_train.learning_rate, or raise it where it is tiny."
        )
        log.warning("%s", said)
        metrics["warnings"] = [said]
    metrics["score_weights"] = choice.as_json()
    return TrainingReport(outcome.images, metrics, outcome.records)
