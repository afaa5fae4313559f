"""What ``batch_size: auto`` stands for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from accelerate.utils import find_executable_batch_size

from compositional_prompts.compute.rows.computation import CPU_BATCH, Computation
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.files.scratch import SCRATCH

logger = logging.getLogger(__name__)


class TriedWorker(Protocol):
    """A computation that has loaded what it needs, and can be tried."""

    def try_batch(self, items: int) -> object:
        """Compute what takes the most memory that so many items may take."""
        ...


def automatic_batch_size(
    computation: Computation,
    start: Callable[[], TriedWorker],
    device: torch.device,
    *,
    upper: int,
    kept: Path = SCRATCH / "batch_sizes",
) -> int:
    """On a GPU what fits into its memory, elsewhere :data:`CPU_BATCH`: more gains little there, and
    running out of memory ends the process.

    What was found is kept: where the batch decides the last bits, a run that goes on, or a grown
    catalog, must not find another.

    Args:
        computation: what is run, with any batch size that is always the same.
        start: loads it.
        device: where it computes.
        upper: the largest batch to try.
        kept: folder of what was found.

    Raises:
        MemoryError: not even one item fits.
    """
    if device.type != "cuda":
        return min(CPU_BATCH, upper)
    record = kept / f"{computation.name}-{computation.identity()}.json"
    if record.is_file():
        return int(json.loads(record.read_text()))
    worker = start()
    size = largest_fitting(worker.try_batch, device, upper=upper)
    del worker  # what computes loads it anew
    torch.cuda.empty_cache()
    with atomic_file(record) as temporary:
        temporary.write_text(json.dumps(size))
    return size


def largest_fitting(run: Callable[[int], object], device: torch.device, *, upper: int) -> int:
    """``upper``, halved until a batch fits into a GPU's memory.

    Args:
        run: computes one batch of the given size.
        device: where ``run`` computes.
        upper: the largest batch to try.

    Raises:
        MemoryError: not even one image fits.
    """
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
