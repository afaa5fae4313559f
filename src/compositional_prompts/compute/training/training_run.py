"""A training run: epochs of steps of batches, shared by processes, that can be resumed anywhere.

What a model is trained by (its batches, loss, validation) it says in a subclass of
:class:`TrainingRun`; all that any training does is here.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from compositional_prompts.compute.processes import any_process
from compositional_prompts.compute.progress import progress
from compositional_prompts.compute.side_by_side import SideBySide
from compositional_prompts.compute.training.checkpoints import (
    Checkpoints,
    optimizer_state,
    random_state,
    set_optimizer_state,
    set_random_state,
    spread_like,
    whole,
)
from compositional_prompts.compute.training.learning_curve import (
    Record,
    best_epoch,
    should_stop,
    write_curve,
)

log = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")

FALLEN: Final = 0.98
FAR_BELOW: Final = 0.9
"""Shares of a loss below which another one counts as lower, and as lower beyond all chance."""


class TrainingError(ValueError):
    """The data or the parameters leave nothing that could be trained."""


class RunParameters(Protocol):
    """The parameters that every training has."""

    @property
    def epochs(self) -> int: ...

    @property
    def gradient_accumulation(self) -> int: ...

    @property
    def early_stopping(self) -> int | None: ...


@dataclass(frozen=True)
class Share:
    """What one of several processes has of a batch: every so many-th row.

    Attributes:
        batch: row numbers of all of it, int64 ``[batch]``.
        part: where the share lies in it; at least one row.
        counted: false for a row that is only there because every process needs one.
    """

    batch: Tensor
    part: slice
    counted: bool

    @classmethod
    def of(cls, batch: Tensor, process: int, processes: int) -> Share:
        """The share of one of ``processes``."""
        counted = process < len(batch)
        return cls(batch, slice(process, None, processes) if counted else slice(1), counted)

    @property
    def rows(self) -> Tensor:
        """Row numbers of the share, int64 ``[rows]``."""
        return self.batch[self.part]


class TrainingRun(ABC, Generic[Record, Loaded]):
    """A run that can stop after any step and go on from there.

    A step has ``gradient_accumulation`` batches, fewer at the end of an epoch. All processes go
    through the same batches, each with its :class:`Share`; their gradients are averaged.

    Attributes:
        epoch: the one that it is in, counted from 1.
        epoch_steps: steps of it that are done.
        steps: all steps that are done.
        images: gone through since the run was started or resumed.
        records: of the epochs that are done.
        best: the trained tensors of the best epoch, on the CPU.
        first_loss: of the first step, before anything was learnt; None before that.
    """

    record_type: type[Record]
    remedy: str
    """Against a loss, or what is trained, that is not finite."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        params: RunParameters,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        threads: SideBySide | None = None,
    ) -> None:
        """Begin a run.

        Args:
            module: what is trained, as the processes share it.
            optimizer: of its trained parameters.
            scheduler: of ``optimizer``; :meth:`update` steps both.
            params: how long to train.
            accelerator: the processes that train together.
            checkpoints: where to go on from and what to write on the way.
            threads: what shares the batches of this process, where :meth:`loss` has them in parts;
                it is entered while steps are computed.
        """
        self.threads = threads
        self.module = module
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.params = params
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.epoch, self.epoch_steps, self.steps, self.images = 1, 0, 0, 0
        self.records: list[Record] = []
        self.best: dict[str, Tensor] = {}
        self.first_loss: float | None = None
        if accelerator.num_processes > 1:
            log.info("%d processes train together", accelerator.num_processes)

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """The trained tensors themselves, by name."""

    @abstractmethod
    def batches(self) -> list[Tensor]:
        """The rows of each batch of the epoch, which may have begun before the run was resumed."""

    @abstractmethod
    def load(self, shares: Iterable[Share]) -> Iterator[Loaded]:
        """What :meth:`loss` needs of each share, read ahead."""

    @abstractmethod
    def loss(self, share: Share, loaded: Loaded, step: Sequence[Share]) -> Tensor:
        """A share's part of the step's loss, a scalar to differentiate.

        The parts of a step add up, and those of several processes are averaged.
        """

    @abstractmethod
    def update(self, *, last: bool) -> None:
        """Step by the gradient that the step's losses gave; ``last`` of the epoch or not."""

    @abstractmethod
    def training_figures(self) -> Mapping[str, float]:
        """The record's figures of the epoch's steps, which are counted anew afterwards."""

    @abstractmethod
    def validation_figures(self) -> Mapping[str, float | None]:
        """The record's other figures, from validation in evaluation mode."""

    @abstractmethod
    def value(self, record: Record) -> float | None:
        """What the best epoch has most of; None where it was not measured."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What this process needs besides to go on: numbers and tensors on the CPU."""

    @abstractmethod
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`state` gave."""

    @property
    def loss_scale(self) -> float:
        """What :meth:`loss` has multiplied the loss by, such as for gradients in float16."""
        return 1.0

    @property
    def chance_loss(self) -> float | None:
        """The training loss of who knows how frequent every answer is, and nothing of the images;
        None where that is not known.
        """
        return None

    @property
    def best_epoch(self) -> int:
        """The first of the best epochs, 0 before any has a value."""
        return best_epoch(self.records, self.value)

    def trained(self) -> dict[str, Tensor]:
        """The trained tensors as they are now, whole, on the CPU. All processes must ask."""
        return {name: whole(tensor) for name, tensor in self.tensors().items()}

    def run(self, curve: Path | None = None) -> None:
        """Go on from the last checkpoint, if there is one, and train to the end.

        The end is the last epoch, or when nothing has become better for long enough.

        Args:
            curve: folder of :func:`write_curve`, written after every epoch by the main process.

        Raises:
            CheckpointError: the checkpoint is damaged.
            TrainingError: a loss or a trained number is not finite.
        """
        self._resume()
        self._show(curve)
        while self.epoch <= self.params.epochs and not should_stop(
            self.records, self.value, self.params.early_stopping
        ):
            with self.threads or nullcontext():
                self._train_epoch()
            self._end_epoch()
            self._show(curve)
            self._save_if_due()

    def _show(self, curve: Path | None) -> None:
        if curve is not None and self.accelerator.is_main_process:
            write_curve(self.record_type, self.records, curve)

    def _train_epoch(self) -> None:
        batches, size = self.batches(), self.params.gradient_accumulation
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        shares = [Share.of(batch, process, processes) for batch in batches]
        steps = [shares[start : start + size] for start in range(0, len(shares), size)]
        left = steps[self.epoch_steps :]
        self.module.train()
        loaded = self.load(share for step in left for share in step)
        label = f"epoch {self.epoch}/{self.params.epochs}"
        for step in (
            progress(left, label, announced=True) if self.accelerator.is_main_process else left
        ):
            parts = []
            for number, share in enumerate(step, start=1):
                with nullcontext() if number == len(step) else self._apart():
                    loss = self.loss(share, next(loaded), step)
                    self.accelerator.backward(loss)
                    parts.append(loss.detach())
            if not self.steps:
                self.first_loss = self._whole_loss(parts)
            self.epoch_steps += 1
            self.steps += 1
            self.images += sum(len(share.batch) for share in step)
            self.update(last=self.epoch_steps == len(steps))
            self._save_if_due()

    def _whole_loss(self, parts: Sequence[Tensor]) -> float:
        """The loss of a step, of what each of its batches has of it in this process."""
        mean: Any = self.accelerator.reduce(torch.stack(list(parts)).sum(), "mean")
        return float(mean) / self.loss_scale

    def learnt_nothing(self) -> str | None:
        """Why nothing was learnt, as part of a sentence; None where something was, and where there
        was one step alone.

        What is no better than :attr:`chance_loss` is nothing, nor is what is no better than the
        beginning. A batch's loss is not that of all images, so where the least loss of an epoch is
        not far below that of the first step, later epochs must be below the first one too.
        """
        if self.first_loss is None or self.steps < 2:
            return None
        losses = [record.train_loss for record in self.records]
        least = min(losses)
        fell = least < FALLEN * self.first_loss
        if len(losses) > 1 and least >= FAR_BELOW * self.first_loss:
            fell = fell and min(losses[1:]) < FALLEN * losses[0]
        chance = self.chance_loss
        if chance is not None and least >= FALLEN * chance:
            return f"the training loss of its best epoch is {least:.4g}, and by chance {chance:.4g}"
        if fell:
            return None
        return (
            f"the training loss began at {self.first_loss:.4g}, and its best epoch has {least:.4g}"
        )

    def _apart(self) -> AbstractContextManager[object]:
        """Gradients stay with their process; the last batch of a step averages them."""
        if isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()  # type: ignore[no-any-return]
        return self.accelerator.no_sync(self.module)  # type: ignore[no-any-return]

    def _end_epoch(self) -> None:
        training: Mapping[str, Any] = self.training_figures()
        self._check_finite(training)
        validation: Mapping[str, Any] = self.validation_figures()
        self._check_finite(validation)
        self._check_trained()
        record = self.record_type(epoch=self.epoch, **training, **validation)
        self.records.append(record)
        log.info("epoch %d of %d: %s", self.epoch, self.params.epochs, record)
        if self.best_epoch == self.epoch:
            self.best = self.trained()
        self.epoch += 1
        self.epoch_steps = 0

    def _check_finite(self, figures: Mapping[str, float | None]) -> None:
        for name, value in figures.items():
            if name.endswith("_loss") and value is not None and not math.isfinite(value):
                raise TrainingError(f"{name} is {value} in epoch {self.epoch}: {self.remedy}")

    def _check_trained(self) -> None:
        for name, tensor in self.tensors().items():
            own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            if not bool(own.isfinite().all()):
                raise TrainingError(
                    f"{name} is no longer finite after epoch {self.epoch}: {self.remedy}"
                )

    def _save_if_due(self) -> None:
        """Write a checkpoint if one process finds it due; all have a part in it."""
        if not any_process(self.accelerator, self.checkpoints.due()):
            return
        own = {"random": random_state(self.accelerator.device), **self.state()}
        self.checkpoints.save(
            {
                "epoch": self.epoch,
                "epoch_steps": self.epoch_steps,
                "steps": self.steps,
                "trained": self.trained(),
                "optimizer": optimizer_state(self.optimizer),
                "scheduler": self.scheduler.state_dict(),
                "records": [asdict(record) for record in self.records],
                "best": self.best,
                "first_loss": self.first_loss,
                "processes": gather_object([own]),
            }
        )

    def _resume(self) -> None:
        found: list[Any] = broadcast_object_list([self.checkpoints.load()])
        state = found[0]
        if state is None:
            return
        self.epoch, self.epoch_steps = state["epoch"], state["epoch_steps"]
        self.steps = state["steps"]
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(spread_like(state["trained"][name], tensor))
        set_optimizer_state(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.records = [self.record_type(**record) for record in state["records"]]
        self.best = state["best"]
        self.first_loss = state["first_loss"]
        own = state["processes"][self.accelerator.process_index]
        self.set_state(own)
        set_random_state(own["random"], self.accelerator.device)
        log.info(
            "going on from a checkpoint: epoch %d, %d steps of it done",
            self.epoch,
            self.epoch_steps,
        )
