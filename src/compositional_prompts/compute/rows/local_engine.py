"""A computation on this machine: in threads around one model, or in processes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.ordered_map import (
    READ_AHEAD,
    WorkerProcesses,
    batched,
    map_in_threads,
)
from compositional_prompts.compute.rows.computation import (
    Computation,
    Item,
    Worker,
    key_array,
)
from compositional_prompts.files.outputs import naming
from compositional_prompts.files.tensors.finite_numbers import require_finite_rows

TASK_ITEMS: Final = 16
TASK_BYTES: Final = 8 * 2**20
"""What one task of a process holds at most: enough to hide the hand-over (half a millisecond),
little enough for any memory, and for a kill to cost little."""

TASKS_A_WORKER: Final = 3

WITH_MAXIMA: Final = frozenset({"troika_judging"})
"""Computations whose rows have maxima, which are minus infinity where there is nothing to take one
of. Told by their names, since what stands in their classes is part of what they are kept by."""


def compute_batch(
    worker: Worker,
    prepared: Sequence[Any],
    batch_size: int | None,
    names: Sequence[str],
    computation: str,
) -> NDArray[Any]:
    """The rows of some prepared items, ``[n]``.

    A short batch is filled up with its last item: kernels of one shape give a row the same bits
    whatever stands beside it.

    Args:
        worker: the computation, loaded.
        prepared: at least one item.
        batch_size: to fill up to; None: as many as there are.
        names: of the items, and
        computation: the name of the computation, for errors.

    Raises:
        ValueError: there are more or fewer rows than items, or a number in one is not finite.
    """
    filled = [*prepared]
    if batch_size is not None:
        filled += [prepared[-1]] * (batch_size - len(prepared))
    rows = worker.compute(filled)
    if len(rows) != len(filled):
        raise ValueError(f"{len(filled)} items gave {len(rows)} rows.")
    rows = rows[: len(prepared)]
    require_finite_rows(rows, names, computation.replace("_", " "), computation in WITH_MAXIMA)
    return rows


class LocalEngine:
    """The engine ``local``: decoding in threads while the model computes, or all in processes."""

    def __init__(self, computation: Computation, workers: int) -> None:
        """Nothing is loaded before the first item.

        Args:
            computation: what to run.
            workers: threads that prepare, or processes.
        """
        self._computation = computation
        self._workers = workers
        self._worker: Worker | None = None
        self._processes: WorkerProcesses | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker = None
        if self._processes is not None:
            self._processes.close(at_once=kind is not None)
            self._processes = None

    def compute(self, items: Iterable[Item]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Keys and rows of all items, in their order, a batch at a time."""
        if self._computation.in_processes and (self._workers > 1 or self._computation.may_crash):
            yield from self._in_processes(items)
        elif self._computation.in_processes:
            for task in tasks(items, TASK_ITEMS, TASK_BYTES):
                yield _keys(task), _task_rows(self._started(), task, self._computation.name)
        else:
            yield from self._with_model(items)

    def _started(self) -> Worker:
        if self._worker is None:
            self._worker = self._computation.start()
        return self._worker

    def _with_model(self, items: Iterable[Item]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        stream = iter(items)
        first = next(stream, None)
        if first is None:
            return
        worker = self._started()

        def prepare(item: Item) -> tuple[bytes, str, Any]:
            with naming(item.name):
                return item.key, item.name, worker.prepare(item.value)

        prepared = map_in_threads(
            prepare,
            chain([first], stream),
            workers=self._workers,
            in_flight=READ_AHEAD * self._computation.batch_size,
        )

        def computed(batch: Sequence[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            keys, names, values = zip(*batch, strict=True)
            of = self._computation
            return (
                key_array(keys),
                compute_batch(worker, values, of.padded_to, names, of.name),
            )

        batches = batched(prepared, self._computation.batch_size)
        if self._computation.on_cpu:
            # Imported here: what needs no model starts without torch.
            from compositional_prompts.compute.side_by_side import SideBySide

            with SideBySide.of_all_cores() as threads:
                yield from threads.mapped(computed, batches)
        else:
            yield from map(computed, batches)

    def _in_processes(self, items: Iterable[Item]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        if self._processes is None:
            self._processes = WorkerProcesses(self._workers, partial(_start, self._computation))
        yield from self._processes.map(
            _run_task,
            tasks(items, TASK_ITEMS, TASK_BYTES),
            in_flight=TASKS_A_WORKER * self._workers,
            died=partial(_died, self._computation.name),
            when_ready=True,
        )


def tasks(items: Iterable[Item], most_items: int, most_bytes: int) -> Iterator[list[Item]]:
    """The items in lists that end with the item that reaches either bound."""
    task: list[Item] = []
    size = 0
    for item in items:
        task.append(item)
        size += _bytes_of(item.value)
        if len(task) == most_items or size >= most_bytes:
            yield task
            task, size = [], 0
    if task:
        yield task


def _bytes_of(value: Any) -> int:
    """Of a photo, an array, or a tuple that holds one."""
    if isinstance(value, tuple):
        return sum(map(_bytes_of, value))
    size: int | None = getattr(value, "nbytes", None)
    return sys.getsizeof(value) if size is None else size


def _keys(task: Sequence[Item]) -> NDArray[np.void]:
    return key_array([item.key for item in task])


def _task_rows(worker: Worker, task: Sequence[Item], computation: str) -> NDArray[Any]:
    prepared = []
    for item in task:
        with naming(item.name):
            prepared.append(worker.prepare(item.value))
    return compute_batch(worker, prepared, None, [item.name for item in task], computation)


_started: list[tuple[Worker, str]] = []
"""The computation of this process and its name, where it is one of a pool."""


def _start(computation: Computation) -> None:
    _started[:] = [(computation.start(), computation.name)]


def _run_task(task: list[Item]) -> tuple[NDArray[Any], NDArray[Any]]:
    worker, computation = _started[0]
    return _keys(task), _task_rows(worker, task, computation)


def _died(computation: str, first: list[Item], last: list[Item]) -> str:
    return (
        f"it computed {computation} of the images from {first[0].name} to {last[-1].name}: one of "
        "them crashes its decoder, or memory ran out. Remove it, or lower base.workers."
    )
