"""The rows of many images: what the store has, and what it lacked, computed and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.progress import progress
from compositional_prompts.compute.rows.computation import Computation, Item, identity_of
from compositional_prompts.compute.rows.engines import open_engine
from compositional_prompts.compute.rows.row_store import RowStore, StoredRows
from compositional_prompts.pipeline.section import Base

ROWS_AT_ONCE = 4096
"""Rows that are read at a time unless asked otherwise."""


class RowSource(Protocol):
    """Inputs that may need a computation, in an order of their own."""

    @property
    def keys(self) -> NDArray[np.void]:
        """The key of every input's row, ``V16 [n]``; equal inputs have equal keys."""
        ...

    def items(self, positions: NDArray[np.int64]) -> Iterator[Item]:
        """Inputs at ascending positions, read as they are asked for."""
        ...


@dataclass(frozen=True)
class CompletedRows:
    """A row for every input of a source.

    Attributes:
        keys: of the inputs, ``V16 [n]``.
        stored: where the rows are.
        computed: how many were computed now; equal inputs count once.
    """

    keys: NDArray[np.void]
    stored: StoredRows
    computed: int

    def __len__(self) -> int:
        return len(self.keys)

    def batches(self, size: int = ROWS_AT_ONCE) -> Iterator[NDArray[Any]]:
        """All rows in the source's order, structured arrays of at most ``size``."""
        for start in range(0, len(self), size):
            yield self.stored.read(self.keys[start : start + size])

    def of(self, keys: NDArray[np.void]) -> NDArray[Any]:
        """The rows of some keys, in their order, structured ``[n]``."""
        return self.stored.read(keys)

    def read(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """The rows of some inputs, in the order of their positions, structured ``[n]``."""
        return self.stored.read(self.keys[positions])


@contextmanager
def complete_rows(
    computation: Computation, source: RowSource, base: Base
) -> Iterator[CompletedRows]:
    """A row of ``computation`` for every input of ``source``: from the store, or computed now.

    What is computed is kept as it comes: a run that is killed goes on from there. The rows are the
    same bytes either way, and whatever batch size, workers and engine are.

    Args:
        computation: what a row is.
        source: the inputs.
        base: where the store is, and the engine.

    Raises:
        WorkerDiedError: a worker died in the middle of its work.
        OSError: the store cannot be written.
        Exception: what the computation raises.
    """
    store = RowStore(base.rows.folder, base.rows.max_gib)
    description = computation.description()
    with store.open(computation.name, identity_of(description), description) as stored:
        keys = source.keys
        missing = stored.missing(keys)
        if len(missing):
            items = progress(
                source.items(missing), computation.name.replace("_", " "), len(missing)
            )
            with open_engine(computation, base) as engine:
                for batch_keys, rows in engine.compute(items):
                    stored.append(batch_keys, rows)
            stored.flush()
        yield CompletedRows(keys, stored, len(missing))
