"""``batch_size: auto``, with a memory that is made up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from number_rows import Squares

from compositional_prompts.captioner.batch_size import automatic_batch_size, largest_fitting
from compositional_prompts.compute.rows.computation import CPU_BATCH

GPU = torch.device("cuda", 0)


def run_in(memory: int, sizes: list[int]) -> Callable[[int], None]:
    """Batches on a GPU that has room for ``memory`` images."""

    def run(size: int) -> None:
        sizes.append(size)
        if size > memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    return run


@pytest.mark.parametrize(
    ("memory", "tried"), [(10**9, [100]), (99, [100, 50]), (12, [100, 50, 25, 12]), (1, None)]
)
def test_a_batch_is_halved_until_it_fits(memory, tried) -> None:
    sizes: list[int] = []
    assert largest_fitting(run_in(memory, sizes), GPU, upper=100) == sizes[-1] <= memory
    assert sizes == (tried or [100, 50, 25, 12, 6, 3, 1])


def test_not_even_one_image_fits() -> None:
    with pytest.raises(MemoryError, match=r"Not even one image .* of cuda:0"):
        largest_fitting(run_in(0, []), GPU, upper=8)


def test_other_errors_are_not_swallowed() -> None:
    def broken(size: int) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        largest_fitting(broken, GPU, upper=8)


class Tried:
    """What is tried, in a memory of 12 images, and how often it was loaded."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.started = 0

    def start(self) -> Tried:
        self.started += 1
        return self

    def try_batch(self, items: int) -> None:
        run_in(12, self.sizes)(items)


def test_on_a_cpu_nothing_is_tried(tmp_path) -> None:
    tried, cpu = Tried(), torch.device("cpu")

    def size(upper: int) -> int:
        return automatic_batch_size(Squares(), tried.start, cpu, upper=upper, kept=tmp_path)

    assert (size(1000), size(3)) == (CPU_BATCH, 3)
    assert not tried.started and not list(tmp_path.iterdir())


def test_what_was_found_stays(tmp_path) -> None:
    tried = Tried()

    def size(power: int) -> int:
        return automatic_batch_size(
            Squares(power), tried.start, GPU, upper=100, kept=tmp_path / "found"
        )

    assert (size(2), size(2), tried.started, tried.sizes) == (12, 12, 1, [100, 50, 25, 12])
    # Of another computation nothing is known.
    assert (size(3), tried.started) == (12, 2)
