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

PATIENCE = 2
"""Doublings in a row without that gain that end the search."""

LEAST_REPEATS = 2
MEASURED_SECONDS = 0.5
"""A batch on a CPU is run so often and so long, and its fastest run counts: a machine is never
quite idle.
"""

SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Cost:
    """What one batch took.

    Attributes:
        memory: bytes at the peak, beyond what was in use before any batch.
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

    def __init__(self) -> None:
        self._process = psutil.Process()
        # What earlier batches freed stays with the process and serves the next: it is no less
        # theirs for that.
        self._before = self._resident()

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)

    def free(self) -> int:
        return int(psutil.virtual_memory().available) + self._resident() - self._before

    def measure(self, run: Callable[[], object]) -> Cost:
        peak = self._resident()
        finished = threading.Event()

        def sample() -> None:
            nonlocal peak
            while not finished.wait(SAMPLE_SECONDS):
                peak = max(peak, self._resident())

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            seconds: list[float] = []
            while len(seconds) < LEAST_REPEATS or sum(seconds) < MEASURED_SECONDS:
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
        finally:
            finished.set()
            sampler.join()
        return Cost(peak - self._before, min(seconds))


def largest_batch(
    run: Callable[[int], object],
    device: torch.device,
    *,
    upper: int,
    meter: Meter | None = None,
) -> int:
    """The largest power of two of images that fits into memory.

    The batch is doubled while twice the memory that the last one took is there. On a CPU, where
    larger batches soon gain nothing, it is the largest that was 5 % faster than half of it.

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
    fruitless = 0
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
        needed = seconds_an_image / LEAST_GAIN ** (fruitless + 1)
        if cost.seconds is None or cost.seconds / size <= needed:
            best, fruitless = size, 0
            if cost.seconds is not None:
                seconds_an_image = cost.seconds / size
        else:
            fruitless += 1
            if fruitless == PATIENCE:
                break
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
