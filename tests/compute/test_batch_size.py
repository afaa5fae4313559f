"""Finding the largest batch: with made-up costs, and the real meter of the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from compositional_prompts.compute.batch_size import Cost, CpuMeter, largest_batch

CPU = torch.device("cpu")


class FakeMeter:
    """A device of ``memory`` bytes on which an image takes ``each`` bytes."""

    def __init__(
        self, memory: int, each: int, seconds: Callable[[int], float] | None = None
    ) -> None:
        self.memory, self.each, self.seconds = memory, each, seconds
        self.sizes: list[int] = []

    def free(self) -> int:
        return self.memory

    def measure(self, run: Callable[[], object]) -> Cost:
        run()
        size = self.sizes[-1]
        return Cost(size * self.each, self.seconds(size) if self.seconds else None)

    def run(self, size: int) -> None:
        self.sizes.append(size)
        if size * self.each > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


@pytest.mark.parametrize(("memory", "wanted"), [(1000, 8), (940, 4), (2000, 16), (10**9, 64)])
def test_doubles_while_twice_the_memory_is_there(memory, wanted) -> None:
    meter = FakeMeter(memory, each=100)
    assert largest_batch(meter.run, CPU, upper=100, meter=meter) == wanted
    assert meter.sizes == [2**power for power in range(wanted.bit_length())]


def test_what_fails_for_want_of_memory_is_not_taken() -> None:
    class Optimist(FakeMeter):
        def free(self) -> int:
            return 10**9

    meter = Optimist(1000, each=100)
    assert largest_batch(meter.run, CPU, upper=100, meter=meter) == 8
    assert meter.sizes == [1, 2, 4, 8, 16]


def test_a_larger_batch_must_be_faster() -> None:
    # 1 s a call and 0.1 s an image: 2 images gain 83 %, ..., 64 gain 13 %, 256 less than 5 %.
    meter = FakeMeter(10**9, each=100, seconds=lambda size: 1 + 0.1 * size)
    assert largest_batch(meter.run, CPU, upper=4096, meter=meter) == 128
    assert max(meter.sizes) == 512


def test_one_slow_measurement_does_not_end_the_search() -> None:
    meter = FakeMeter(10**9, each=100, seconds=lambda size: 9.0 if size == 2 else 1 + 0.1 * size)
    assert largest_batch(meter.run, CPU, upper=4096, meter=meter) == 128


def test_not_even_one_image_fits() -> None:
    with pytest.raises(MemoryError, match="Not even one image"):
        meter = FakeMeter(99, each=100)
        largest_batch(meter.run, CPU, upper=8, meter=meter)
    with pytest.raises(MemoryError, match="Not even one image"):
        meter = FakeMeter(101, each=100)
        largest_batch(meter.run, CPU, upper=8, meter=meter)


def test_other_errors_are_not_swallowed() -> None:
    def broken(size: int) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        largest_batch(broken, CPU, upper=8)


def test_the_cpu_meter_sees_what_is_freed_again() -> None:
    meter = CpuMeter()
    cost = meter.measure(lambda: [torch.ones(2**24).exp() for _ in range(3)])
    assert 2**26 < cost.memory < 2**31
    assert cost.seconds is not None and cost.seconds > 0
    assert 0 < meter.free() < 2**50


def test_an_allocation_beyond_the_machine_ends_the_search() -> None:
    def run(size: int) -> None:
        if size >= 4:
            torch.empty(2**60, dtype=torch.uint8)

    assert largest_batch(run, CPU, upper=64, meter=_Unlimited()) == 2


class _Unlimited(CpuMeter):
    def free(self) -> int:
        return 2**60

    def measure(self, run: Callable[[], object]) -> Cost:
        run()
        return Cost(0, None)
