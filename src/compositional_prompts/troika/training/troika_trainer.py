"""The training loop: epochs, validation, and the choice of the best epoch.

Every epoch trains in training mode (dropout, batch statistics) and validates in evaluation mode.
An epoch's random numbers depend on the seed and the epoch alone.

Several processes share every batch. The loss, its gradient and batch norm are those of the whole
batch; order and augmentation are the same for any number of processes, and only dropout differs.
"""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from compositional_prompts.compute.checkpoints import (
    Checkpoints,
    optimizer_state,
    random_state,
    set_optimizer_state,
    set_random_state,
    whole,
)
from compositional_prompts.compute.ordered_map import map_in_threads
from compositional_prompts.compute.processes import any_process, join_processes
from compositional_prompts.compute.progress import progress
from compositional_prompts.troika.evaluation.czsl_metrics import czsl_metrics
from compositional_prompts.troika.evaluation.judging import Judgements, World, judge
from compositional_prompts.troika.model.model_folder import TrainedState
from compositional_prompts.troika.model.network import BranchLogits, Troika
from compositional_prompts.troika.model.shared_batch_norm import SharedBatchNorm, share_batch_norms
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.augmentation import random_maps, warp
from compositional_prompts.troika.training.pixel_cache import Normalizer
from compositional_prompts.troika.training.troika_curve import (
    EpochRecord,
    Selection,
    best_epoch,
    selection_of,
    should_stop,
)

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
class TrainingOutcome:
    """The trained tensors, on the CPU, the curve, and the criterion that chose the best epoch.

    ``images`` were gone through by this run of it (fewer than all where it went on from a
    checkpoint): training and validation images, once an epoch.
    """

    state: TrainedState
    records: list[EpochRecord]
    selection: Selection
    images: int


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


def _epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    return (seed * 1_000_003 + epoch + (process << 32)) % 2**63


@torch.inference_mode()
def validate(
    model: Troika,
    data: Labelled,
    batch_size: int,
    normalizer: Normalizer,
    accelerator: Accelerator | None = None,
) -> dict[str, float | int | None]:
    """Metrics of :func:`~.evaluation.czsl_metrics` in evaluation mode; the mode is left on.

    The processes of ``accelerator`` take turns at the batches, and all get the metrics of all.
    """
    model.eval()
    if not len(data):
        return czsl_metrics(Judgements.concatenate([]))
    process, processes = 0, 1
    if accelerator is not None:
        process, processes = accelerator.process_index, accelerator.num_processes
    device = data.pairs.device
    world = World.of(data.pairs, data.seen)
    texts = model.encode_text(data.pairs)
    batches = list(enumerate(torch.split(torch.arange(len(data)), batch_size)))[process::processes]
    parts = []
    for number, rows in batches:
        pixel_values = normalizer.to_pixel_values(data.pixels[rows].to(device))
        logits = model.branch_logits(model.encode_image(pixel_values), texts)
        scores = model.pair_scores(logits, data.pairs)
        parts.append((number, judge(scores, data.columns[rows].to(device), world)))
    if processes > 1:
        parts = sorted(gather_object(parts), key=lambda part: part[0])
    return czsl_metrics(Judgements.concatenate([judgements for _, judgements in parts]))


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


class _Trainer:
    """A training run that can stop after any step and go on from there."""

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
    ) -> None:
        self.model = model
        self.train = train
        self.validation = validation
        self.normalizer = normalizer
        self.params = params
        self.seed = seed
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.selection = selection_of(validation.seen.cpu()[validation.columns])
        _check(train, self.selection, params)
        self.module: nn.Module = model
        self.norms: list[SharedBatchNorm] = []
        if accelerator.num_processes > 1:
            self._join_others()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(
            trainable, lr=params.learning_rate, weight_decay=params.weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.StepLR(
            self.optimizer, params.lr_step, params.lr_gamma
        )
        # Where the run is: the epoch, counted from 1, and its steps that are done; the loss of
        # each of their batches times its images; augmentation's random numbers.
        self.epoch = 1
        self.epoch_steps = 0
        self.losses: list[Tensor] = []
        self.generator = torch.Generator()
        self.records: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}
        self.images = 0

    def run(self) -> None:
        """Train until the last epoch, or until nothing has become better for long enough."""
        while self.epoch <= self.params.epochs and not should_stop(
            self.records, self.selection, self.params.early_stopping
        ):
            self._train_epoch()
            self._end_epoch()
            self._save_if_due()

    def _join_others(self) -> None:
        log.info("%d processes train together", self.accelerator.num_processes)
        if self.accelerator.distributed_type == DistributedType.FSDP:
            log.info("they do so as under DDP: what is trained is too small for FSDP to spread")
        self.norms = share_batch_norms(self.model)
        device = self.accelerator.device
        self.module = DistributedDataParallel(
            self.model, None if device.type == "cpu" else [device]
        )

    def trained(self) -> dict[str, Tensor]:
        """The trained tensors as they are now, copied to the CPU."""
        return {name: whole(tensor) for name, tensor in self.model.trained_state().items()}

    def _train_epoch(self) -> None:
        order = torch.Generator().manual_seed(_epoch_seed(self.seed, self.epoch))
        batches = training_batches(len(self.train), self.params.batch_size, order)
        if not self.epoch_steps:
            process = self.accelerator.process_index
            torch.manual_seed(_epoch_seed(self.seed, self.epoch, process))
            self.generator = order
        accumulation = self.params.gradient_accumulation
        steps = [
            batches[start : start + accumulation] for start in range(0, len(batches), accumulation)
        ]
        left = steps[self.epoch_steps :]
        self.model.train()
        shares = (batch[self._share(batch)] for step in left for batch in step)
        pixels = map_in_threads(lambda rows: self.train.pixels[rows], shares)
        label = f"epoch {self.epoch}"
        for step in progress(left, label) if self.accelerator.is_main_process else left:
            for number, batch in enumerate(step):
                self._backward(batch, next(pixels), len(step), last=number == len(step) - 1)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.images += sum(len(batch) for batch in step)
            self.epoch_steps += 1
            if self.epoch_steps == len(steps):
                self.scheduler.step()
            self._save_if_due()

    def _share(self, batch: Tensor) -> slice:
        """What this process has of a batch; where that is nothing, its first image stands in."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        return slice(process, None, processes) if process < len(batch) else slice(1)

    def _backward(self, batch: Tensor, pixels: Tensor, batches: int, *, last: bool) -> None:
        """Add the gradient of a batch to that of its step, which is the mean over ``batches``.

        Args:
            batch: its rows, over all processes, int64 ``[batch]``.
            pixels: of this process' share of them.
            batches: of the step.
            last: whether the step ends with it, so that processes add their gradients up.
        """
        data, params, share = self.train, self.params, self._share(batch)
        device = data.pairs.device
        counted = len(pixels) if self.accelerator.process_index < len(batch) else 0
        for norm in self.norms:
            norm.counted = counted > 0
        images = pixels.to(device)
        if params.augment:
            images = warp(images, random_maps(len(batch), self.generator)[share])
        targets = data.columns[batch[share]].to(device)
        module = self.module
        apart = isinstance(module, DistributedDataParallel) and not last
        with module.no_sync() if apart else nullcontext():  # type: ignore[operator]
            with torch.autocast(
                device.type, torch.bfloat16, enabled=params.precision == "bfloat16"
            ):
                logits = module(self.normalizer.to_pixel_values(images), data.pairs)
            loss = weighted_loss(logits, targets, data.pairs, params)
            # DDP takes the mean over processes of what here is each one's part of a sum.
            weight = counted * self.accelerator.num_processes / len(batch)
            (loss * weight / batches).backward()  # type: ignore[no-untyped-call]
        self.losses.append(loss.detach() * counted)

    def _train_loss(self) -> float:
        """Mean loss of the epoch over the images of all processes."""
        total: Tensor = torch.stack(self.losses).sum()
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, "sum")
        mean = float(total) / len(self.train)
        if not math.isfinite(mean):
            raise TrainingError(
                f"The training loss of epoch {self.epoch} is {mean}: lower "
                f"troika_train.learning_rate (now {self.params.learning_rate:g})."
            )
        return mean

    def _end_epoch(self) -> None:
        loss = self._train_loss()
        metrics = validate(
            self.model, self.validation, self.params.batch_size, self.normalizer, self.accelerator
        )
        record = EpochRecord.of(self.epoch, loss, metrics)
        self.records.append(record)
        log.info("epoch %d of %d: %s", self.epoch, self.params.epochs, record)
        if best_epoch(self.records, self.selection) == self.epoch:
            self.best = self.trained()
        self.images += len(self.validation)
        self.epoch += 1
        self.epoch_steps = 0
        self.losses = []

    def _save_if_due(self) -> None:
        """Write a checkpoint if it is time for one; all processes take part."""
        if not any_process(self.accelerator, self.checkpoints.due()):
            return
        device = self.accelerator.device
        own = {
            "random": random_state(device),
            "losses": torch.stack(self.losses).cpu() if self.losses else torch.zeros(0),
        }
        processes = gather_object([own]) if self.accelerator.num_processes > 1 else [own]
        self.checkpoints.save(
            {
                "epoch": self.epoch,
                "epoch_steps": self.epoch_steps,
                "augmentation": self.generator.get_state(),
                "trained": self.trained(),
                "optimizer": optimizer_state(self.optimizer),
                "scheduler": self.scheduler.state_dict(),
                "records": [asdict(record) for record in self.records],
                "best": self.best,
                "processes": processes,
            }
        )

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one.

        Raises:
            CheckpointError: it is damaged.
        """
        state = self.checkpoints.load()
        if self.accelerator.num_processes > 1:
            (state,) = broadcast_object_list([state])
        if state is None:
            return
        device = self.accelerator.device
        self.epoch, self.epoch_steps = state["epoch"], state["epoch_steps"]
        self.generator.set_state(state["augmentation"])
        self.model.load_state_dict(state["trained"], strict=False)
        set_optimizer_state(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.records = [EpochRecord(**record) for record in state["records"]]
        self.best = state["best"]
        own = state["processes"][self.accelerator.process_index]
        self.losses = list(own["losses"].to(device))
        set_random_state(own["random"], device)
        log.info(
            "going on from a checkpoint: epoch %d, %d steps of it done",
            self.epoch,
            self.epoch_steps,
        )


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

    Raises:
        TrainingError: there is too little to train on, or the loss is no longer finite.
        CheckpointError: the checkpoint to go on from is damaged.
    """
    trainer = _Trainer(
        model,
        train,
        validation,
        normalizer,
        params,
        seed=seed,
        accelerator=accelerator or join_processes(train.pairs.device),
        checkpoints=checkpoints or Checkpoints(None, 0),
    )
    trainer.resume()
    trainer.run()
    chosen = best_epoch(trainer.records, trainer.selection)
    state = TrainedState(trainer.best, trainer.trained(), chosen, len(trainer.records))
    return TrainingOutcome(state, trainer.records, trainer.selection, trainer.images)
