"""Cached query features in memory, for tests that are not about the cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class MemoryInputs:
    """An ``ImageInputs`` of the given features ``[n, queries, width]``."""

    def __init__(self, image_ids: Sequence[str], features: Tensor) -> None:
        self._rows = {image_id: row for row, image_id in enumerate(image_ids)}
        self._features = features
        self.epochs: list[int] = []

    def positions(self, image_ids: Sequence[str]) -> np.ndarray:
        return np.array([self._rows[image_id] for image_id in image_ids], dtype=np.int64)

    def read(self, positions: np.ndarray) -> Tensor:
        return self._features[torch.from_numpy(positions)]

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)
