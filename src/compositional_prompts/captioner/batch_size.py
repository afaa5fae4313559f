"""What ``batch_size: auto`` stands for."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from accelerate.utils import find_executable_batch_size

logger = logging.getLogger(__name__)

CPU_BATCH = 16
"""On a CPU larger batches soon gain nothing, and running out of memory ends the process."""


def automatic_batch_size(run: Callable[[int], object], device: torch.device, *, upper: int) -> int:
    """On a GPU ``upper``, halved until a batch fits into memory; elsewhere :data:`CPU_BATCH`.

    Args:
        run: computes one batch of the given size.
        device: where ``run`` computes.
        upper: the largest batch to try.

    Raises:
        MemoryError: not even one image fits.
    """
    if device.type != "cuda":
        return min(CPU_BATCH, upper)
    size = 2 * upper

    def halved() -> int:
        nonlocal size
        size //= 2
        if not size:
            raise MemoryError(
                f"Not even one image fits into the memory of {device}: choose a smaller model or "
                "a lower precision, or close what else uses it."
            )
        return size

    find_executable_batch_size(run, halved(), halved)()
    logger.info("batch size %d, found by trying", size)
    return size
