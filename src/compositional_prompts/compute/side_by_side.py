"""Parts of one computation, side by side in threads that compute with one core each.

Small tensors gain little from a second core inside of an operation: threads wait for one another
after each. Parts of a batch wait once a step. What is computed does not depend on how many threads
there are, as long as the parts are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeVar

import torch
from torch import Tensor, nn

from compositional_prompts.compute.devices import one_thread

Result = TypeVar("Result")

PARTS: Final = 2
"""Of a batch on a CPU: two cores are what every machine has. Fixed, so that results are too."""


class SideBySide:
    """Threads that share work, each computing in one thread of torch while it is entered."""

    def __init__(self, threads: int) -> None:
        """``threads``: as many as there are cores to use; with 1 the parts take turns."""
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._one_thread = one_thread()

    def __enter__(self) -> Self:
        self._one_thread.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._one_thread.__exit__(kind, error, trace)

    def results(self, parts: Sequence[Callable[[], Result]]) -> list[Result]:
        """What the parts return, in their order; an error of one of them is raised.

        Torch's modes (no_grad, autocast) are a thread's own: a part enters those that it needs.
        """
        if self._pool is None or len(parts) == 1:
            return [part() for part in parts]
        return list(self._pool.map(_call, parts))


def _call(part: Callable[[], Result]) -> Result:
    return part()


def parts_of(rows: int, device: torch.device) -> tuple[Tensor, ...]:
    """Row numbers of the parts of a batch: :data:`PARTS` on a CPU, one elsewhere; none is empty."""
    parts = PARTS if device.type == "cpu" else 1
    return torch.arange(rows).tensor_split(min(parts, rows))


def differentiate(
    losses: Sequence[Callable[[], Tensor]],
    parameters: Sequence[nn.Parameter],
    threads: SideBySide,
) -> float:
    """Leave the gradient of the sum of the losses in ``grad`` of the parameters.

    Gradients are added in the order of the losses, so that it does not count who is first.

    Args:
        losses: functions that compute a part of the loss, a scalar, each by itself.
        parameters: what to differentiate by; one that no loss depends on gets no gradient.
        threads: what computes them.

    Returns:
        The sum of the losses.
    """

    def gradients(loss: Callable[[], Tensor]) -> tuple[float, tuple[Tensor | None, ...]]:
        value = loss()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        return value.item(), found

    parts = threads.results([lambda loss=loss: gradients(loss) for loss in losses])  # type: ignore[misc]
    for number, parameter in enumerate(parameters):
        total: Tensor | None = None
        for _, found in parts:
            if (part := found[number]) is not None:
                total = part if total is None else total.add_(part)
        parameter.grad = total
    return sum(value for value, _ in parts)
