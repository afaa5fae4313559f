"""A training of some epochs without validation, by scheduled optimizers, resumed where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compositional_prompts.compute.progress import progress
from compositional_prompts.compute.training.checkpoints import (
    Checkpoints,
    optimizer_state,
    random_state,
    set_optimizer_state,
    set_random_state,
    whole,
)
from compositional_prompts.compute.training.muon import ScheduledOptimizers

log = logging.getLogger(__name__)


class PlainTraining:
    """A training in one process that can stop after any step and go on from there.

    Attributes:
        epoch: the one that it is in, counted from 1.
        steps: of it that are done.
        total: the sum of their losses.
    """

    def __init__(
        self,
        label: str,
        trained: Mapping[str, Tensor],
        optimizers: ScheduledOptimizers,
        generator: torch.Generator,
        device: torch.device,
        checkpoints: Checkpoints,
    ) -> None:
        """Begin a training.

        Args:
            label: what is trained, as the log says it.
            trained: the tensors that change, by name.
            optimizers: of them.
            generator: what order and steps are drawn from, on the CPU.
            device: where it computes.
            checkpoints: where to go on from, and what to write on the way and at the end.
        """
        self.label = label
        self.trained = trained
        self.optimizers = optimizers
        self.generator = generator
        self.device = device
        self.checkpoints = checkpoints
        self.epoch, self.steps, self.total = 1, 0, 0.0
        self._began = generator.get_state()

    def run(
        self,
        epochs: int,
        batches: Callable[[], Sequence[Tensor]],
        step: Callable[[int, Tensor], float],
    ) -> None:
        """Go on from the last checkpoint, if there is one, and train to the end.

        Args:
            epochs: passes over the data.
            batches: draws the rows of each batch of an epoch from the generator.
            step: makes one step by a batch, of which epoch it is, and returns its loss.

        Raises:
            CheckpointError: the checkpoint is damaged.
        """
        found = self.checkpoints.load()
        if found is not None:
            self._set_state(found)
            log.info("%s: going on after %d steps of epoch %d", self.label, self.steps, self.epoch)
        while self.epoch <= epochs:
            drawn = self.generator.get_state()
            if self.steps:
                self.generator.set_state(self._began)
            else:
                self._began = drawn
            chosen = batches()
            if self.steps:
                self.generator.set_state(drawn)
            label = f"{self.label}, epoch {self.epoch}/{epochs}"
            for rows in progress(chosen[self.steps :], label, announced=True):
                self.total += step(self.epoch, rows)
                self.steps += 1
                if self.checkpoints.due():
                    self.checkpoints.save(self._state())
            mean = self.total / len(chosen)
            log.info("%s, epoch %d of %d: loss %.3f", self.label, self.epoch, epochs, mean)
            self.epoch, self.steps, self.total = self.epoch + 1, 0, 0.0
        self.checkpoints.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "total": self.total,
            "began": self._began,
            "drawn": self.generator.get_state(),
            "random": random_state(self.device),
            "trained": {name: whole(tensor) for name, tensor in self.trained.items()},
            "optimizers": [optimizer_state(one) for one in self.optimizers.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.optimizers.schedules],
        }

    def _set_state(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.steps, self.total = state["epoch"], state["steps"], state["total"]
        self._began = state["began"]
        self.generator.set_state(state["drawn"])
        set_random_state(state["random"], self.device)
        with torch.no_grad():
            for name, tensor in self.trained.items():
                tensor.copy_(state["trained"][name])
        for optimizer, kept in zip(self.optimizers.optimizers, state["optimizers"], strict=True):
            set_optimizer_state(optimizer, kept)
        for schedule, kept in zip(self.optimizers.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(kept)
