"""Time and memory of a piece of work in this process."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch

SAMPLE_SECONDS = 0.005
"""Time between two looks at the memory in use."""


def best_time(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of ``repeats`` runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Fill the list with the block's peak memory, MiB beyond what was in use before.

    On the CPU memory of the process' own: what it maps or caches of files is not counted.
    """
    result: list[float] = []
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield result
        result.append((torch.cuda.max_memory_allocated(device) - before) / 2**20)
        return
    process = psutil.Process()

    def used() -> int:
        memory = process.memory_info()
        return int(memory.rss - memory.shared)

    before = peak = used()
    finished = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not finished.wait(SAMPLE_SECONDS):
            peak = max(peak, used())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield result
    finally:
        finished.set()
        sampler.join()
    result.append((peak - before) / 2**20)
