"""The training loop: epochs, validation, and the choice of the best epoch.

Every epoch trains in training mode (dropout, batch statistics) and validates in evaluation mode.
An epoch's random numbers depend on the seed and the epoch alone.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from compositional_prompts.params import TroikaTrain
from compositional_prompts.stage import progress
from compositional_prompts.troika.augmentation import augment
from compositional_prompts.troika.checkpoint import TrainedState
from compositional_prompts.troika.evaluation import Judgements, World, czsl_metrics, judge
from compositional_prompts.troika.model import BranchLogits, Troika
from compositional_prompts.troika.pixels import Normalizer

Selection = Literal["val_auc", "val_primitive_hm", "last_epoch"]

log = logging.getLogger(__name__)


class TrainingError(ValueError):
    """The data or the parameters leave nothing that could be trained."""


@dataclass(frozen=True)
class Labelled:
    """Images in memory with their true pair.

    Attributes:
        pixels: 0..255, uint8 ``[images, 3, size, size]``.
        columns: column of the true pair among the pairs given with it, int64 ``[images]``.
        pairs: attribute and object position of each candidate pair, int64 ``[pairs, 2]``.
        seen: whether the candidate has training images, bool ``[pairs]``.
    """

    pixels: Tensor
    columns: Tensor
    pairs: Tensor
    seen: Tensor

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training curve; validation is None where there is nothing to measure.

    Attributes:
        epoch: counted from 1.
        train_loss: mean over the images of the weighted sum of the three cross-entropies.
    """

    epoch: int
    train_loss: float
    val_auc: float | None
    val_hm: float | None
    val_best_seen: float | None
    val_best_unseen: float | None
    val_attribute_accuracy: float | None
    val_object_accuracy: float | None


@dataclass(frozen=True)
class TrainingOutcome:
    """The trained tensors, the curve, and the criterion that chose the best epoch."""

    state: TrainedState
    records: list[EpochRecord]
    selection: Selection


def weighted_loss(
    logits: BranchLogits, targets: Tensor, pairs: Tensor, params: TroikaTrain
) -> Tensor:
    """Weighted sum of the cross-entropies of the three branches (section 3.4), a scalar.

    Args:
        logits: of a batch.
        targets: true column among ``pairs``, int64 ``[batch]``.
        pairs: attribute and object positions of the training pairs, int64 ``[pairs, 2]``.
        params: its ``loss_weights``.
    """
    weights = params.loss_weights
    return (
        weights.composition * F.cross_entropy(logits.composition, targets)
        + weights.attribute * F.cross_entropy(logits.attribute, pairs[targets, 0])
        + weights.object * F.cross_entropy(logits.object, pairs[targets, 1])
    )


def training_batches(images: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """The rows of every batch of one epoch in random order, each row once.

    A single row left over joins the batch before it: batch norm has no statistics of one image.
    """
    batches = list(torch.split(torch.randperm(images, generator=generator), batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _epoch_seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _train_epoch(
    model: Troika,
    optimizer: torch.optim.Optimizer,
    data: Labelled,
    params: TroikaTrain,
    generator: torch.Generator,
    epoch: int,
    normalizer: Normalizer,
) -> float:
    device = data.pairs.device
    model.train()
    batches = training_batches(len(data), params.batch_size, generator)
    losses = []
    for number, rows in enumerate(progress(batches, f"epoch {epoch}", len(batches))):
        pixels = data.pixels[rows].to(device)
        images = augment(pixels, generator) if params.augment else pixels
        targets = data.columns[rows].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=params.precision == "bfloat16"):
            logits = model(normalizer.to_pixel_values(images), data.pairs)
        loss = weighted_loss(logits, targets, data.pairs, params)
        group_start = number - number % params.gradient_accumulation
        group = min(params.gradient_accumulation, len(batches) - group_start)
        (loss / group).backward()  # type: ignore[no-untyped-call]
        if number - group_start + 1 == group:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach() * len(rows))
    total = float(torch.stack(losses).sum()) / len(data)
    if not math.isfinite(total):
        raise TrainingError(
            f"The training loss of epoch {epoch} is {total}: lower troika_train.learning_rate "
            f"(now {params.learning_rate:g})."
        )
    return total


@torch.inference_mode()
def validate(
    model: Troika, data: Labelled, batch_size: int, normalizer: Normalizer
) -> dict[str, float | int | None]:
    """Metrics of :func:`~.evaluation.czsl_metrics` in evaluation mode; the mode is left on."""
    model.eval()
    if not len(data):
        return czsl_metrics(Judgements.concatenate([]))
    device = data.pairs.device
    world = World.of(data.pairs, data.seen)
    texts = model.encode_text(data.pairs)
    parts = []
    for rows in torch.split(torch.arange(len(data)), batch_size):
        pixel_values = normalizer.to_pixel_values(data.pixels[rows].to(device))
        logits = model.branch_logits(model.encode_image(pixel_values), texts)
        scores = model.pair_scores(logits, data.pairs)
        parts.append(judge(scores, data.columns[rows].to(device), world))
    return czsl_metrics(Judgements.concatenate(parts))


def _selection(validation: Labelled) -> Selection:
    if not len(validation):
        return "last_epoch"
    seen = validation.seen.cpu()[validation.columns]
    return "val_auc" if bool(seen.any()) and not bool(seen.all()) else "val_primitive_hm"


def _selection_value(selection: Selection, record: EpochRecord) -> float:
    """What the best epoch has most of."""
    if selection == "val_auc":
        assert record.val_auc is not None
        return record.val_auc
    if selection == "val_primitive_hm":
        assert record.val_attribute_accuracy is not None
        assert record.val_object_accuracy is not None
        product = record.val_attribute_accuracy * record.val_object_accuracy
        total = record.val_attribute_accuracy + record.val_object_accuracy
        return 2 * product / total if total else 0.0
    return float(record.epoch)


def _check(train: Labelled, selection: Selection, params: TroikaTrain) -> None:
    if not len(train):
        raise TrainingError(
            "There is no labelled training image (pair_split train): label some, or set "
            "troika_train.epochs: 0 to name pairs by zero-shot CLIP."
        )
    if len(train) < 2 or params.batch_size < 2:
        raise TrainingError(
            f"{len(train)} training images in batches of troika_train.batch_size = "
            f"{params.batch_size}: batch norm needs at least 2 images in a batch."
        )
    if params.early_stopping is not None and selection == "last_epoch":
        raise TrainingError(
            "troika_train.early_stopping needs labelled validation images (pair_split val), and "
            "there are none: set it to null."
        )


def _snapshot(model: Troika) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.trained_state().items()}


def fit(
    model: Troika,
    train: Labelled,
    validation: Labelled,
    normalizer: Normalizer,
    params: TroikaTrain,
    seed: int,
) -> TrainingOutcome:
    """Train ``model`` in place, at least one epoch, and keep the best and the last tensors.

    The best epoch has the highest validation AUC; where validation has no images of seen or none
    of unseen pairs, the highest harmonic mean of attribute and object accuracy; where it has no
    images, it is the last one. The earlier of equal epochs is kept.

    Args:
        model: on the device that ``train.pairs`` is on.
        train: training images; its candidates are the seen pairs.
        validation: validation images, possibly none; its candidates are their closed world.
        normalizer: from pixels to pixel_values.
        params: ``troika_train``, with ``epochs`` of at least 1.
        seed: of order, augmentation and dropout.

    Raises:
        TrainingError: there is too little to train on, or the loss is no longer finite.
    """
    selection = _selection(validation)
    _check(train, selection, params)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(
        trainable, lr=params.learning_rate, weight_decay=params.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, params.lr_step, params.lr_gamma)
    records: list[EpochRecord] = []
    best_value, best_epoch, best = -torch.inf, 0, {}
    for epoch in range(1, params.epochs + 1):
        torch.manual_seed(_epoch_seed(seed, epoch))
        generator = torch.Generator().manual_seed(_epoch_seed(seed, epoch))
        loss = _train_epoch(model, optimizer, train, params, generator, epoch, normalizer)
        scheduler.step()
        metrics = validate(model, validation, params.batch_size, normalizer)
        records.append(
            EpochRecord(
                epoch,
                loss,
                val_auc=metrics["auc"],
                val_hm=metrics["best_hm"],
                val_best_seen=metrics["best_seen"],
                val_best_unseen=metrics["best_unseen"],
                val_attribute_accuracy=metrics["attribute_accuracy"],
                val_object_accuracy=metrics["object_accuracy"],
            )
        )
        measured = ", ".join(
            f"{name.replace('_', ' ')} {value:.3f}"
            for name, value in asdict(records[-1]).items()
            if name != "epoch" and value is not None
        )
        log.info("epoch %d of %d: %s", epoch, params.epochs, measured)
        value = _selection_value(selection, records[-1])
        if value > best_value:
            best_value, best_epoch, best = value, epoch, _snapshot(model)
        elif params.early_stopping is not None and epoch - best_epoch >= params.early_stopping:
            break
    state = TrainedState(best, _snapshot(model), best_epoch, len(records))
    return TrainingOutcome(state, records, selection)
