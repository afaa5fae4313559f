"""One map over a stream of items: in parallel, in their order, with few of them in memory.

It ends with its consumer: where that stops early, what has not begun is cancelled.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
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
        yield from map_in_pool(pool, work, items, in_flight)


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
    """Processes for several maps one after another; they start with the first item of the first.

    They end with this one, however it ends, and at once where it stops early. Ctrl-C, which a
    terminal sends to all processes, is for this one.
    """

    def __init__(self, workers: int, initializer: Callable[[], None] | None = None) -> None:
        """As :func:`map_in_processes`."""
        # Spawn: a fork would copy the locks of the threads of Arrow and torch in whatever state.
        context = multiprocessing.get_context("spawn")
        # Nothing is ever sent: it is closed to end the processes, and by the end of this one.
        self._lifeline, self._held = context.Pipe(duplex=False)
        begin = partial(_begin, initializer)
        self._pool = ProcessPoolExecutor(workers, context, begin, (self._lifeline,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(at_once=kind is not None)

    def close(self, *, at_once: bool = False) -> None:
        """End the processes; ``at_once``: also in the middle of what nobody waits for any more."""
        if at_once:
            self._held.close()
        self._pool.shutdown(cancel_futures=True)
        self._held.close()
        self._lifeline.close()

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
        yield from map_in_pool(self._pool, work, items, in_flight, died, when_ready)


def _begin(initializer: Callable[[], None] | None, lifeline: Connection) -> None:
    """What a process of a pool begins with."""
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with(lifeline: Connection) -> None:
    # A pool's processes hold both ends of its pipes, so that none of them sees a killed parent.
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C, from their first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def map_in_pool(
    pool: Executor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    in_flight: int,
    died: Callable[[Item, Item], str] | None = None,
    when_ready: bool = False,
) -> Iterator[Result]:
    """As :func:`map_in_threads` and :meth:`WorkerProcesses.map`, in a pool of the caller's."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    starting = nullcontext if died is None else _interrupts_held  # threads start no process

    # Not around ``items``, which may come from another pool that has its own to say.
    @contextmanager
    def naming_dead(first: Item, last: Item) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            if died is None:
                raise
            raise WorkerDiedError(f"a worker process died while {died(first, last)}") from error

    def first() -> Result:
        item, future = waiting[0]
        with naming_dead(item, waiting[-1][0]):
            result = future.result()
        waiting.popleft()
        return result

    try:
        for item in items:
            with naming_dead(waiting[0][0] if waiting else item, item), starting():
                future = pool.submit(work, item)
            waiting.append((item, future))
            if len(waiting) == in_flight:
                yield first()
            while when_ready and waiting and waiting[0][1].done():
                yield first()
        while waiting:
            yield first()
    finally:
        for _, future in waiting:
            future.cancel()


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of ``size``, the last one maybe shorter (Python 3.12 has it too)."""
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
