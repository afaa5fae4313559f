"""Reading the next batches while the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

AHEAD = 2
"""Batches held ready: one to hide a slow read, one for jitter."""


def prefetched(items: Iterable[Item], load: Callable[[Item], Loaded]) -> Iterator[Loaded]:
    """``load(item)`` of every item, in order, computed in a thread up to :data:`AHEAD` early.

    An exception in ``load`` is raised when its item's turn comes. Reading files and copying
    tensors release the interpreter lock, so that a thread does.
    """
    pending: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                pending.append(pool.submit(load, item))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
