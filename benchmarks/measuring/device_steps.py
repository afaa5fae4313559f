"""Steps on a device: how long they take, what share of the device's speed, within a time limit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

WARM_UP, WARM_UP_SECONDS = 3, 2.0
"""Runs that are not counted; fewer, at least one, when they take so long."""

LEAST_REPEATS, REPEAT_SECONDS = 3, 4.0
"""Counted runs are fewer than asked for, at least so many, when they take so long."""

Inputs = TypeVar("Inputs")


class TimeLimit:
    """Says, and prints, which measurements there is no time left for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start = time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start

    def allows(self, name: str) -> bool:
        """Whether ``name`` may begin."""
        if self.spent < self._seconds:
            return True
        print(f"{name}: left out, {self._seconds:g} s are spent", flush=True)
        return False


@dataclass(frozen=True)
class Measurement:
    """What one kind of step took.

    Attributes:
        name: what was measured.
        batch: images a step.
        seconds: of a step, the median.
        spread: from the fastest to the slowest step, relative to the median.
        flop: floating-point operations an image.
        peak_bytes: most that torch had allocated; None on the CPU.
    """

    name: str
    batch: int
    seconds: float
    spread: float
    flop: float
    peak_bytes: int | None

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.batch / self.seconds

    def print(self, peak: float) -> None:
        """Print a row below :func:`print_head`; the share is of ``peak``, operations a second."""
        speed = self.flop * self.rate
        memory = "" if self.peak_bytes is None else f"{self.peak_bytes / 2**30:.1f}"
        print(
            f"{self.name:48}{self.batch:>6}{self.rate:>10.1f}{self.spread:>8.1%}"
            f"{self.flop / 1e9:>13.4g}{speed / 1e12:>9.3g}{speed / peak:>9.1%}{memory:>10}",
            flush=True,
        )


def print_head() -> None:
    """Print the names of the columns of :meth:`Measurement.print`."""
    print(
        f"\n{'':48}{'batch':>6}{'images/s':>10}{'spread':>8}{'GFLOP/image':>13}{'TFLOP/s':>9}"
        f"{'of peak':>9}{'peak GiB':>10}",
        flush=True,
    )


def synchronise(device: torch.device) -> None:
    """Wait for what was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run, from an idle device to an idle device."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def matmul_peak(size: int, device: torch.device, repeats: int) -> float:
    """Operations a second of a bfloat16 matrix product ``[size, size] x [size, size]``."""
    pairs = [torch.randn(2, size, size, device=device, dtype=torch.bfloat16) for _ in range(3)]
    for pair in pairs:
        torch.mm(*pair)
    # Several a measurement, each on other numbers, so that the start of one hides behind another.
    rounds = 8

    def run() -> None:
        for number in range(rounds):
            torch.mm(*pairs[number % len(pairs)])

    return rounds * 2 * size**3 / statistics.median(timed(run, device) for _ in range(repeats))


@dataclass(frozen=True)
class Meter(Generic[Inputs]):
    """Measures steps on random batches and prints each as soon as it is measured.

    Attributes:
        draw: a fresh batch of so many images, on the device.
        device: where the steps run.
        repeats: most counted runs.
        peak: operations a second that shares are of.
        limit: on the time of all measurements.
    """

    draw: Callable[[int], Inputs]
    device: torch.device
    repeats: int
    peak: float
    limit: TimeLimit

    def count(self, run: Callable[[Inputs], object], images: int = 2) -> float:
        """Floating-point operations an image, in a batch of ``images``."""
        with FlopCounterMode(display=False) as counter:
            run(self.draw(images))
        return counter.get_total_flops() / images

    def measure(
        self, name: str, batch: int, run: Callable[[Inputs], object], flop: float
    ) -> Measurement:
        """Time ``run`` on fresh batches, after a warm-up."""
        spent = 0.0
        for _ in range(WARM_UP):
            inputs = self.draw(batch)
            spent += timed(lambda: run(inputs), self.device)  # noqa: B023
            if spent > WARM_UP_SECONDS:
                break
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        times: list[float] = []
        while len(times) < self.repeats:
            inputs = self.draw(batch)
            times.append(timed(lambda: run(inputs), self.device))  # noqa: B023
            if len(times) >= LEAST_REPEATS and sum(times) > REPEAT_SECONDS:
                break
        seconds = statistics.median(times)
        return Measurement(
            name=name,
            batch=batch,
            seconds=seconds,
            spread=(max(times) - min(times)) / seconds,
            flop=flop,
            peak_bytes=torch.cuda.max_memory_allocated(self.device) if cuda else None,
        )

    def sweep(
        self, name: str, batches: Iterable[int], run: Callable[[Inputs], object], flop: float
    ) -> list[Measurement]:
        """Measure growing batches until memory does not hold one, or time is out."""
        measurements = []
        for batch in batches:
            if not self.limit.allows(f"{name}, {batch} images"):
                break
            try:
                measurement = self.measure(name, batch, run, flop)
            except torch.OutOfMemoryError:
                print(f"{name}: {batch} images do not fit into memory", flush=True)
                break
            measurement.print(self.peak)
            measurements.append(measurement)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return measurements
