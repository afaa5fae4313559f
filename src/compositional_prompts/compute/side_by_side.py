"""Parts of a batch, side by side in threads that compute with some of the cores each.

Small tensors gain little from a second core inside of an operation: threads wait for one another
after each. Parts of a batch wait once. What is computed does not depend on how many threads there
are, since the parts are the same, and so are their random numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compositional_prompts.compute.ordered_map import map_in_pool

if TYPE_CHECKING:  # its import takes a fifth of a second, and what only computes rows has none
    from accelerate import Accelerator

Item = TypeVar("Item")
Result = TypeVar("Result")

PARTS: Final = 2
"""Of a batch on a CPU: two cores are what every machine has. Fixed, so that results are too."""

_drawing = threading.local()


class SideBySide:
    """Threads that share work while this is entered, each computing with some of torch's threads.

    What they compute with does not depend on how many of them there are.
    """

    def __init__(self, threads: int | None = None, *, cores: int = 1) -> None:
        """Start nothing yet.

        Args:
            threads: how many; with 1 the parts take turns. By default :data:`PARTS`, and one where
                torch has no more (one core, or OMP_NUM_THREADS).
            cores: threads of torch that each computes with.
        """
        self._threads = min(PARTS, torch.get_num_threads()) if threads is None else threads
        self._cores = cores
        self._pool: ThreadPoolExecutor | None = None
        self._before = torch.get_num_threads()

    @classmethod
    def of(cls, accelerator: Accelerator) -> SideBySide | None:
        """All cores, for a training that this process has on a CPU for itself, or None: processes
        have parts of every batch already, and a GPU wants all of it at once.
        """
        if accelerator.num_processes > 1 or accelerator.device.type != "cpu":
            return None
        return cls.of_all_cores()

    @classmethod
    def of_all_cores(cls) -> SideBySide:
        """Threads that together compute with as many threads as torch has."""
        return cls(cores=max(1, torch.get_num_threads() // PARTS))

    def __enter__(self) -> Self:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self._cores)
        if self._threads > 1:
            self._pool = ThreadPoolExecutor(self._threads)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        torch.set_num_threads(self._before)

    def results(self, parts: Sequence[Callable[[], Result]]) -> list[Result]:
        """What the parts return, in their order; an error of one of them is raised.

        Torch's modes (no_grad, autocast) are a thread's own: a part enters those that it needs.
        """
        if len(parts) == 1:  # nobody to share with, so that the caller's thread is as good
            return [parts[0]()]
        return list(self.mapped(_call, parts))

    def mapped(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``work(item)`` of every item, in order, as many at a time as there are threads."""
        if self._pool is None:
            yield from map(work, items)
        else:
            yield from map_in_pool(self._pool, work, items, self._threads + 1)


def _call(part: Callable[[], Result]) -> Result:
    return part()


def parts_of(rows: int, device: torch.device) -> tuple[Tensor, ...]:
    """Row numbers of the parts of a batch: :data:`PARTS` on a CPU, one elsewhere; none is empty."""
    parts = PARTS if device.type == "cpu" else 1
    return torch.arange(rows).tensor_split(max(1, min(parts, rows)))


def part_generator() -> torch.Generator | None:
    """What a part draws its random numbers from, on the CPU; None, torch's own, outside of one."""
    return getattr(_drawing, "generator", None)


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    before = part_generator()
    _drawing.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _drawing.generator = before


def in_parts(
    function: Callable[..., tuple[Tensor, ...]],
    parts: Sequence[Sequence[Tensor | None]],
    shared: Sequence[Tensor],
    parameters: Sequence[Tensor],
    threads: SideBySide,
) -> list[tuple[Tensor, ...]]:
    """What ``function(*part, *shared)`` returns of every part, to be differentiated once.

    Forwards and backwards each part is computed in a thread of its own. Gradients of what the
    parts share are added in the order of the parts, so that it does not count who is first. Random
    numbers (:func:`part_generator`) are seeded from torch's own generator.

    Args:
        function: what is computed, under the caller's autocast and with gradients. It may read
            tensors besides its arguments if they need no gradient, or are ``parameters``.
        parts: arguments of each part; None is passed on.
        shared: further arguments of all parts.
        parameters: what it differentiates by besides.
        threads: what computes.
    """
    if len(parts) == 1:
        return [function(*parts[0], *shared)]
    seeds = torch.randint(2**62, (len(parts),)).tolist()
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def compute(number: int, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        enabled, dtype = autocast
        with (
            torch.enable_grad(),
            torch.autocast("cpu", dtype, enabled=enabled),
            _drawing_from(seeds[number]),
        ):
            return function(*arguments)

    widths = [len(part) for part in parts], len(shared)
    flat: Any = _InParts.apply(
        compute, widths, threads, *(one for part in parts for one in part), *shared, *parameters
    )
    outputs = len(flat) // len(parts)
    return [tuple(flat[start : start + outputs]) for start in range(0, len(flat), outputs)]


class _InParts(torch.autograd.Function):
    """See :func:`in_parts`; what each part computed waits in ``ctx`` to be differentiated."""

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable[[int, Sequence[Any]], tuple[Tensor, ...]],
        widths: tuple[list[int], int],
        threads: SideBySide,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        own, shared = widths
        ends = [sum(own[: number + 1]) for number in range(len(own))]
        common = tensors[ends[-1] : ends[-1] + shared]
        given = [
            [*tensors[end - width : end], *common] for end, width in zip(ends, own, strict=True)
        ]
        # Leaves of a graph of the part's own.
        arguments = [
            [
                one.detach().requires_grad_(one.requires_grad) if isinstance(one, Tensor) else one
                for one in part
            ]
            for part in given
        ]
        found = threads.results(
            [partial(compute, number, part) for number, part in enumerate(arguments)]
        )
        ctx.found, ctx.arguments, ctx.widths, ctx.threads = found, arguments, widths, threads
        ctx.parameters = tensors[ends[-1] + shared :]
        outputs = [one.detach() for part in found for one in part]
        fixed = [
            output
            for output, one in zip(outputs, (o for part in found for o in part), strict=True)
            if not one.requires_grad
        ]
        ctx.mark_non_differentiable(*fixed)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found, arguments, parameters = ctx.found, ctx.arguments, ctx.parameters
        own, shared = ctx.widths
        ctx.found = ctx.arguments = None
        outputs = len(found[0])

        def differentiate(number: int) -> list[Tensor | None]:
            inputs = [*arguments[number], *parameters]
            needed = [
                place
                for place, one in enumerate(inputs)
                if isinstance(one, Tensor) and one.requires_grad
            ]
            given = gradients[number * outputs : (number + 1) * outputs]
            wanted = [
                (output, gradient)
                for output, gradient in zip(found[number], given, strict=True)
                if output.requires_grad
            ]
            sums = torch.autograd.grad(
                [output for output, _ in wanted],
                [inputs[place] for place in needed],
                [gradient for _, gradient in wanted],
                allow_unused=True,
            )
            placed: list[Tensor | None] = [None] * len(inputs)
            for place, total in zip(needed, sums, strict=True):
                placed[place] = total
            return placed

        parts = ctx.threads.results(
            [partial(differentiate, number) for number in range(len(found))]
        )
        of_parts = [one for part, width in zip(parts, own, strict=True) for one in part[:width]]
        common = [
            _total([part[width + place] for part, width in zip(parts, own, strict=True)])
            for place in range(shared + len(parameters))
        ]
        return None, None, None, *of_parts, *common


def _total(gradients: Sequence[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for one in gradients:
        if one is not None:
            total = one if total is None else total + one
    return total
