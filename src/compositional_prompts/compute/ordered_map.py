"""One map over a stream of items: in parallel, in their order, with few of them in memory.

It ends with its consumer: where that stops early, what has not begun is cancelled.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

READ_AHEAD = 3
"""Items, or batches of them, in flight of what reads for a model: one under way, one to hide a slow
read, one for jitter."""


class WorkerDiedError(RuntimeError):
    """A worker process ended in the middle of its work: it crashed, or was killed."""


def map_in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 1,
    in_flight: int = READ_AHEAD,
) -> Iterator[Result]:
    """``work(item)`` of every item, in order, computed in threads while the caller computes.

    Reading files, decoding images and copying tensors release the interpreter lock, so that
    threads do. An exception in ``work`` is raised when its item's turn comes.

    Args:
        work: runs in several threads.
        items: taken in the caller's thread, as they are needed.
        workers: threads.
        in_flight: how many items at most are taken and their results not yet handed over.
    """
    with ThreadPoolExecutor(workers) as pool:
        yield from _ordered(pool, work, items, in_flight, deque())


def map_in_processes(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    in_flight: int,
    died: Callable[[Item, Item], str],
    initializer: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """As :func:`map_in_threads`, in processes: ``work``, items and results are pickled.

    The processes end with this one, however it ends.

    Args:
        work: a function of a module, or a partial of one.
        items: as in :func:`map_in_threads`.
        workers: processes.
        in_flight: as in :func:`map_in_threads`.
        died: what to say where a process dies, of the first and the last item in flight: what was
            being done with them, and the remedy; goes on from "a worker process died while".
        initializer: a function of a module, called once in each process.

    Raises:
        WorkerDiedError: a worker process died.
    """
    with WorkerProcesses(workers, initializer) as processes:
        yield from processes.map(work, items, in_flight=in_flight, died=died)


class WorkerProcesses:
    """Processes for several maps one after another; they start with the first item of the first."""

    def __init__(self, workers: int, initializer: Callable[[], None] | None = None) -> None:
        """As :func:`map_in_processes`."""
        # Spawn: a fork would copy the locks of the threads of Arrow and torch in whatever state.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, partial(_begin, initializer))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)

    def map(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        in_flight: int,
        died: Callable[[Item, Item], str],
        when_ready: bool = False,
    ) -> Iterator[Result]:
        """As :func:`map_in_processes`; after an error there is no further map.

        Args:
            work, items, in_flight, died: as there.
            when_ready: hand over what is ready before another item is taken, for a consumer that
                keeps results and is quick, where items come slowly. Otherwise results wait until
                ``in_flight`` items were taken, so that workers have something to do while the
                consumer computes.
        """
        waiting: deque[Item] = deque()
        try:
            yield from _ordered(self._pool, work, items, in_flight, waiting, when_ready)
        except BrokenProcessPool as error:
            said = died(waiting[0], waiting[-1])
            raise WorkerDiedError(f"a worker process died while {said}") from error


def _begin(initializer: Callable[[], None] | None) -> None:
    """What a process of a pool begins with."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with_parent() -> None:
    # A pool's processes hold both ends of its pipes, so that none of them sees a killed parent.
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a process of a pool
    parent.join()
    os._exit(1)


def _ordered(
    pool: Executor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    in_flight: int,
    waiting: deque[Item],
    when_ready: bool = False,
) -> Iterator[Result]:
    """The map; ``waiting`` holds the items in flight."""
    futures: deque[Future[Result]] = deque()

    def first() -> Result:
        result = futures.popleft().result()
        waiting.popleft()
        return result

    try:
        for item in items:
            waiting.append(item)
            futures.append(pool.submit(work, item))
            if len(futures) == in_flight:
                yield first()
            while when_ready and futures and futures[0].done():
                yield first()
        while futures:
            yield first()
    finally:
        for future in futures:
            future.cancel()


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of ``size``, the last one maybe shorter (Python 3.12 has it too)."""
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
