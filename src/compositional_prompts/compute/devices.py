"""The torch device that ``base.device`` asks for, and repeatable runs on it."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

LOCAL_RANK = "LOCAL_RANK"
"""Where torchrun and `accelerate launch` say which process of this machine one is."""


def resolve_device(name: str) -> torch.device:
    """The device named ``cpu``, ``cuda`` or ``auto`` (the GPU if there is one, else the CPU).

    Of several processes that a launcher started on a machine each gets a GPU of its own.

    Raises:
        RuntimeError: ``cuda`` is asked for and torch sees no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise RuntimeError(
            "base.device is cuda, but torch sees no GPU: set base.device to cpu or auto, "
            "or install a CUDA driver."
        )
    rank = os.environ.get(LOCAL_RANK)
    return torch.device(name) if rank is None else torch.device(name, int(rank))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that a run on one machine repeats exactly."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
