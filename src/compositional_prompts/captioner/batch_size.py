"""The largest batch that memory holds, found by trying growing ones."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

logger = logging.getLogger(__name__)

USABLE = 0.85
"""Share of the free memory that a batch may take: the rest is for fragmentation, and for whatever
else runs on the machine.
"""

LEAST_GAIN = 1.05
"""On a CPU a batch twice as large must be at least so many times as fast, image for image."""

REPEATS = 2
"""Runs of a batch on a CPU, the faster of which counts: a machine is never quite idle."""

SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Cost:
    """What one batch took.

    Attributes:
        memory: bytes at the peak, beyond what was in use before.
        seconds: wall time; None where speed does not limit the batch.
    """

    memory: int
    seconds: float | None


class Meter(Protocol):
    """Measures batches on one kind of device."""

    def free(self) -> int:
        """Bytes that a batch could take."""
        ...

    def measure(self, run: Callable[[], object]) -> Cost:
        """Run once, or as often as a reliable measurement takes."""
        ...


class CudaMeter:
    """Memory as torch's allocator reserves it of a GPU, speed aside."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        clear_device_cache(garbage_collection=True)
        return int(torch.cuda.mem_get_info(self._device)[0])

    def measure(self, run: Callable[[], object]) -> Cost:
        clear_device_cache(garbage_collection=True)
        before = torch.cuda.memory_reserved(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        run()
        torch.cuda.synchronize(self._device)
        return Cost(torch.cuda.max_memory_reserved(self._device) - before, None)


class CpuMeter:
    """Resident memory of this process, sampled while a batch runs, and its time."""

    def free(self) -> int:
        return int(psutil.virtual_memory().available)

    def measure(self, run: Callable[[], object]) -> Cost:
        process = psutil.Process()
        before = peak = process.memory_info().rss
        finished = threading.Event()

        def sample() -> None:
            nonlocal peak
            while not finished.wait(SAMPLE_SECONDS):
                peak = max(peak, process.memory_info().rss)

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            seconds = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
        finally:
            finished.set()
            sampler.join()
        return Cost(peak - before, min(seconds))


def largest_batch(
    run: Callable[[int], object],
    device: torch.device,
    *,
    upper: int,
    meter: Meter | None = None,
) -> int:
    """The largest power of two of images that fits into memory.

    The batch is doubled while twice the memory that the last one took is there. On a CPU, where a
    larger batch soon costs memory and gains nothing, also only while doubling it gains speed.

    Args:
        run: computes one batch of the given size; called with 1, 2, 4 and so on.
        device: where ``run`` computes.
        upper: the largest batch to try.
        meter: measures ``run``; by default that of the device.

    Raises:
        MemoryError: not even one image fits.
    """
    if meter is None:
        meter = CudaMeter(device) if device.type == "cuda" else CpuMeter()
    best, seconds_an_image = 0, float("inf")
    size = 1
    while size <= upper:
        free = meter.free()
        try:
            cost = meter.measure(lambda: run(size))  # noqa: B023
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
                break
            raise
        if cost.memory > USABLE * free:
            break
        if cost.seconds is not None:
            if cost.seconds / size * LEAST_GAIN > seconds_an_image:
                break
            seconds_an_image = cost.seconds / size
        best = size
        if 2 * cost.memory > USABLE * free:
            break
        size *= 2
    if not best:
        raise MemoryError(
            f"Not even one image fits into the memory of {device}: choose a smaller model or a "
            "lower precision, or close what else uses it."
        )
    logger.info("batch size %d, found by trying", best)
    return best
