"""The training loop: epochs, validation, and the choice of the best epoch.

Every epoch trains in training mode (dropout, batch statistics) and validates in evaluation mode.
An epoch's random numbers depend on the seed and the epoch alone.

Several processes share every batch. The loss, its gradient and batch norm are those of the whole
batch; order and augmentation are the same for any number of processes, and only dropout differs.
One process alone on a CPU shares them among threads, which changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from compositional_prompts.compute.ordered_map import map_in_threads
from compositional_prompts.compute.precision import autocast, with_fixed_precision
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.compute.side_by_side import SideBySide
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.compute.training.training_run import Share, TrainingError, TrainingRun
from compositional_prompts.troika.evaluation.czsl_metrics import czsl_metrics
from compositional_prompts.troika.evaluation.judging import Judgements, World, judge
from compositional_prompts.troika.model.model_folder import TrainedState
from compositional_prompts.troika.model.network import BranchLogits, Troika
from compositional_prompts.troika.model.shared_batch_norm import SharedBatchNorm, share_batch_norms
from compositional_prompts.troika.pair_scoring import Scorer
from compositional_prompts.troika.parameters import TroikaTrain, training_fault
from compositional_prompts.troika.training.augmentation import random_maps, warp
from compositional_prompts.troika.training.pixel_cache import Normalizer
from compositional_prompts.troika.training.troika_curve import (
    Selection,
    TroikaEpoch,
    selected_figure,
    selection_of,
    validation_columns,
)

log = logging.getLogger(__name__)

Judged = TypeVar("Judged")


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
class TrainingOutcome:
    """The trained tensors, on the CPU, the curve, and the criterion that chose the best epoch.

    ``learnt_nothing`` is as :meth:`TrainingRun.learnt_nothing` says; ``images`` were gone through
    by this run of it (fewer than all where it went on from a checkpoint): training and validation
    images, once an epoch.
    """

    state: TrainedState
    records: list[TroikaEpoch]
    selection: Selection
    images: int
    learnt_nothing: str | None


def weighted_loss(
    logits: BranchLogits, targets: Tensor, pairs: Tensor, params: TroikaTrain
) -> Tensor:
    """Weighted sum of the cross-entropies of the three branches (section 3.4), a scalar.

    Where images are named by objects alone, there is one attribute, the absent one, whose
    cross-entropy is 0 whatever the model: its branch has no part in the loss.

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


def _entropy(labels: Tensor) -> float:
    """Of int64 ``[n]`` whose values are as probable as they are frequent, in nats."""
    shares = torch.bincount(labels).double() / len(labels)
    return float(torch.special.entr(shares).sum())


def _epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    return (seed * 1_000_003 + epoch + (process << 32)) % 2**63


@torch.inference_mode()
def validate(
    model: Troika,
    data: Labelled,
    batch_size: int,
    normalizer: Normalizer,
    accelerator: Accelerator | None = None,
    zero_shot: Scorer | None = None,
) -> dict[str, float | int | None]:
    """Metrics of :func:`~.evaluation.czsl_metrics` in evaluation mode; the mode is left on.

    The processes of ``accelerator`` take turns at the batches, and all get the metrics of all.
    ``zero_shot`` scores the candidates by the frozen CLIP, where that has a weight in the score.
    """
    model.eval()
    if not len(data):
        return czsl_metrics(Judgements.concatenate([]))
    device = data.pairs.device
    world = World.of(data.pairs, data.seen)
    texts = model.encode_text(data.pairs)

    def judged(rows: Tensor) -> Judgements:
        pixel_values = normalizer.to_pixel_values(data.pixels[rows].to(device))
        logits = model.branch_logits(model.encode_image(pixel_values), texts)
        logit = zero_shot(pixel_values).scores() if zero_shot is not None else None
        scores = model.pair_scores(logits, data.pairs, logit)
        return judge(scores, data.columns[rows].to(device), world)

    parts = judged_in_order(judged, len(data), batch_size, accelerator)
    return czsl_metrics(Judgements.concatenate(parts))


def judged_in_order(
    judge_rows: Callable[[Tensor], Judged],
    images: int,
    batch_size: int,
    accelerator: Accelerator | None = None,
) -> list[Judged]:
    """What is made of the rows of every batch, in order.

    The processes of ``accelerator`` take turns at the batches, and all get what all have made.

    Args:
        judge_rows: of rows, int64 ``[batch]``, something that can be pickled.
        images: how many rows there are.
        batch_size: rows at once.
        accelerator: by default this process alone.
    """
    process, processes = 0, 1
    if accelerator is not None:
        process, processes = accelerator.process_index, accelerator.num_processes
    batches = list(enumerate(torch.split(torch.arange(images), batch_size)))[process::processes]
    parts = [(number, judge_rows(rows)) for number, rows in batches]
    if processes > 1:
        parts = sorted(gather_object(parts), key=lambda part: part[0])
    return [judged for _, judged in parts]


class _TroikaRun(TrainingRun[TroikaEpoch, Tensor]):
    """Training of all that Troika adds to CLIP; its images' pixels are what is loaded."""

    record_type = TroikaEpoch
    params: TroikaTrain

    def __init__(
        self,
        model: Troika,
        train: Labelled,
        validation: Labelled,
        normalizer: Normalizer,
        params: TroikaTrain,
        *,
        seed: int,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        zero_shot: Scorer | None,
    ) -> None:
        self.model = model
        self.zero_shot = zero_shot
        self.train = train
        self.validation = validation
        self.normalizer = normalizer
        self.seed = seed
        self.alone = model.attribute_disentangler is None
        self.selection = selection_of(
            validation.seen.cpu()[validation.columns], objects_alone=self.alone
        )
        if fault := training_fault(len(train), len(validation), params):
            raise TrainingError(fault)
        module: nn.Module = model
        self.norms: list[SharedBatchNorm] = []
        if accelerator.num_processes > 1:
            if accelerator.distributed_type == DistributedType.FSDP:
                log.info("processes join as under DDP: too little is trained for FSDP to spread")
            self.norms = share_batch_norms(model)
            device = accelerator.device
            module = DistributedDataParallel(model, None if device.type == "cpu" else [device])
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(
            trainable, lr=params.learning_rate, weight_decay=params.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, params.lr_step, params.lr_gamma)
        threads = SideBySide.of(accelerator)
        super().__init__(module, optimizer, scheduler, params, accelerator, checkpoints, threads)
        self.remedy = f"lower troika_train.learning_rate (now {params.learning_rate:g})."
        # The loss of each batch of the epoch times its images; augmentation's random numbers.
        self.losses: list[Tensor] = []
        self.generator = torch.Generator()

    def tensors(self) -> dict[str, Tensor]:
        return self.model.trained_state()

    def batches(self) -> list[Tensor]:
        order = torch.Generator().manual_seed(_epoch_seed(self.seed, self.epoch))
        batches = training_batches(len(self.train), self.params.batch_size, order)
        if not self.epoch_steps:
            process = self.accelerator.process_index
            torch.manual_seed(_epoch_seed(self.seed, self.epoch, process))
            self.generator = order
        return batches

    def load(self, shares: Iterable[Share]) -> Iterator[Tensor]:
        return map_in_threads(lambda share: self.train.pixels[share.rows], shares)

    def loss(self, share: Share, loaded: Tensor, step: Sequence[Share]) -> Tensor:
        data, params = self.train, self.params
        device = data.pairs.device
        counted = len(loaded) if share.counted else 0
        for norm in self.norms:
            norm.counted = share.counted
        images = loaded.to(device)
        if params.augment:
            images = warp(images, random_maps(len(share.batch), self.generator)[share.part])
        targets = data.columns[share.rows].to(device)
        pixel_values = self.normalizer.to_pixel_values(images)
        with autocast(device, params.precision):
            if self.threads is None:
                logits = self.module(pixel_values, data.pairs)
            else:
                logits = self.model.forward_in_parts(pixel_values, data.pairs, self.threads)
        loss = weighted_loss(logits, targets, data.pairs, params)
        self.losses.append(loss.detach() * counted)
        # DDP takes the mean over processes of what here is each one's part of a sum.
        weight = counted * self.accelerator.num_processes / len(share.batch)
        part: Tensor = loss * weight / len(step)
        return part

    def update(self, *, last: bool) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if last:
            self.scheduler.step()

    @property
    def chance_loss(self) -> float:
        """The weighted sum of the entropies of pairs, attributes and objects."""
        pairs = self.train.pairs.cpu()[self.train.columns.cpu()]
        weights = self.params.loss_weights
        return (
            weights.composition * _entropy(self.train.columns.cpu())
            + weights.attribute * _entropy(pairs[:, 0])
            + weights.object * _entropy(pairs[:, 1])
        )

    def training_figures(self) -> dict[str, float]:
        total: Any = self.accelerator.reduce(torch.stack(self.losses).sum(), "sum")
        self.losses = []
        return {"train_loss": float(total) / len(self.train)}

    def validation_figures(self) -> dict[str, float | None]:
        metrics = validate(
            self.model,
            self.validation,
            self.params.batch_size,
            self.normalizer,
            self.accelerator,
            self.zero_shot,
        )
        self.images += len(self.validation)
        return validation_columns(metrics, objects_alone=self.alone)

    def value(self, record: TroikaEpoch) -> float | None:
        return selected_figure(self.selection, asdict(record))

    def state(self) -> dict[str, Any]:
        return {
            "augmentation": self.generator.get_state(),
            "losses": torch.stack(self.losses).cpu() if self.losses else torch.zeros(0),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["augmentation"])
        self.losses = list(state["losses"].to(self.accelerator.device))


def fit(
    model: Troika,
    train: Labelled,
    validation: Labelled,
    normalizer: Normalizer,
    params: TroikaTrain,
    seed: int,
    *,
    accelerator: Accelerator | None = None,
    checkpoints: Checkpoints | None = None,
    curve: Path | None = None,
    zero_shot: Scorer | None = None,
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
        params: ``troika_train``, with ``epochs`` of at least 1. A batch of ``batch_size`` images
            is shared by all processes.
        seed: of order, augmentation and dropout.
        accelerator: the processes that train together; by default this one alone.
        checkpoints: where to go on from and what to write on the way; by default nothing.
        curve: folder of the curve (:func:`write_curve`), a step an epoch; by default none.
        zero_shot: scores validation's candidates by the frozen CLIP; needed where that has a weight
            in the model's score.

    Raises:
        TrainingError: there is too little to train on, or the loss is no longer finite.
        CheckpointError: the checkpoint to go on from is damaged.
    """
    accelerator = accelerator or join_processes(train.pairs.device)
    params, _ = with_fixed_precision(params, accelerator)
    run = _TroikaRun(
        model,
        train,
        validation,
        normalizer,
        params,
        seed=seed,
        accelerator=accelerator,
        checkpoints=checkpoints or Checkpoints(None, 0),
        zero_shot=zero_shot,
    )
    run.run(curve)
    state = TrainedState(run.best, run.trained(), run.best_epoch, len(run.records))
    return TrainingOutcome(state, run.records, run.selection, run.images, run.learnt_nothing())
