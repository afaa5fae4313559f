"""The engine that ``base.engine`` names: what runs a computation over the items that lack a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray

from compositional_prompts.compute.rows.computation import Computation, Item
from compositional_prompts.compute.rows.local_engine import LocalEngine
from compositional_prompts.compute.rows.ray_engine import RayEngine
from compositional_prompts.pipeline.section import Base

KeyedRows = tuple[NDArray[Any], NDArray[Any]]
"""Keys, ``V16 [n]``, and their rows, a structured array ``[n]``."""


class Engine(AbstractContextManager["Engine"], Protocol):
    """One computation under way: loaded once, given items as often as there are some."""

    def compute(self, items: Iterable[Item]) -> Iterator[KeyedRows]:
        """The rows of all items, a batch at a time as they are ready, in any order.

        Raises:
            WorkerDiedError: a worker died in the middle of its work.
            Exception: what the computation raises.
        """
        ...


def open_engine(computation: Computation, base: Base) -> Engine:
    """The engine that ``base.engine`` names, for one computation.

    Args:
        computation: what to run.
        base: engine, workers, and what the engine needs.
    """
    if base.engine == "ray":
        return RayEngine(computation, base.ray)
    return LocalEngine(computation, base.workers)
