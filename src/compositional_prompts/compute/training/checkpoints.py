"""Checkpoints of a training run: one file, replaced whole, read without unpickling objects.

What a run's state is, its trainer says; here is how it is kept, and the parts that any run has:
random number generators and tensors that FSDP spreads over processes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from compositional_prompts.compute.torch_files import TorchFileError, read_torch_file
from compositional_prompts.files.outputs import atomic_file

CHECKPOINT_FILE = "checkpoint.pt"


class CheckpointError(ValueError):
    """A checkpoint cannot be read."""


class Checkpoints:
    """When a run's state is written, and where to."""

    def __init__(self, folder: Path | None, seconds: float) -> None:
        """Keep checkpoints.

        Args:
            folder: where; it must be there. None on processes that keep none, since one does for
                all.
            seconds: time between two of them; 0 for one after every step.
        """
        self._path = None if folder is None else folder / CHECKPOINT_FILE
        self._seconds = seconds
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for one; never on a process that keeps none."""
        return self._path is not None and time.monotonic() - self._written >= self._seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; without effect on a process that keeps none."""
        if self._path is not None:
            with atomic_file(self._path) as temporary:
                torch.save(dict(state), temporary)
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state that was written last, on the CPU, or None where there is none.

        Raises:
            CheckpointError: the file is damaged.
        """
        if self._path is None or not self._path.is_file():
            return None
        try:
            state: dict[str, Any] = read_torch_file(self._path)
        except TorchFileError as error:
            raise CheckpointError(
                f"{self._path} is damaged and cannot be resumed from: delete "
                f"{self._path.parent} to start afresh. ({error})"
            ) from error
        return state


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's random number generators."""
    generator: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = generator
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Go on with the numbers that followed when ``state`` was taken."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU; of a tensor spread over processes all of it, and all must ask."""
    full = tensor.detach()
    if isinstance(full, DTensor):
        full = full.full_tensor()
    return full.to("cpu", copy=True)


def spread_like(value: Tensor, tensor: Tensor) -> Tensor:
    """``value``, which is whole, on the device of ``tensor`` and spread as it is."""
    placed = value.to(tensor.device)
    if isinstance(tensor, DTensor):
        return distribute_tensor(placed, tensor.device_mesh, tensor.placements)
    return placed


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's ``state_dict`` with its tensors whole, on the CPU."""
    state = optimizer.state_dict()
    return {
        "param_groups": state["param_groups"],
        "state": {
            number: {
                name: whole(value) if isinstance(value, Tensor) else value
                for name, value in values.items()
            }
            for number, values in state["state"].items()
        },
    }


def set_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what :func:`optimizer_state` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread = {
        number: {
            # Moments are spread as their parameter is; a count of steps is not.
            name: spread_like(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({"state": spread, "param_groups": state["param_groups"]})
