"""``batch_size: auto``, with a memory that is made up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from compositional_prompts.captioner.batch_size import CPU_BATCH, automatic_batch_size

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
    assert automatic_batch_size(run_in(memory, sizes), GPU, upper=100) == sizes[-1] <= memory
    assert sizes == (tried or [100, 50, 25, 12, 6, 3, 1])


def test_not_even_one_image_fits() -> None:
    with pytest.raises(MemoryError, match=r"Not even one image .* of cuda:0"):
        automatic_batch_size(run_in(0, []), GPU, upper=8)


def test_other_errors_are_not_swallowed() -> None:
    def broken(size: int) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        automatic_batch_size(broken, GPU, upper=8)


def test_on_a_cpu_nothing_is_tried() -> None:
    sizes: list[int] = []
    run, cpu = run_in(0, sizes), torch.device("cpu")
    assert automatic_batch_size(run, cpu, upper=1000) == CPU_BATCH
    assert automatic_batch_size(run, cpu, upper=3) == 3
    assert not sizes
