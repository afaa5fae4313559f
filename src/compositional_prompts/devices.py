"""The torch device that ``base.device`` asks for, and repeatable runs on it."""

from __future__ import annotations

import random

import numpy as np
import torch


def resolve_device(name: str) -> torch.device:
    """The device named ``cpu``, ``cuda`` or ``auto`` (the GPU if there is one, else the CPU).

    Raises:
        RuntimeError: ``cuda`` is asked for and torch sees no GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "base.device is cuda, but torch sees no GPU: set base.device to cpu or auto, "
            "or install a CUDA driver."
        )
    return torch.device(name)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, so that a run on one machine repeats exactly."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
