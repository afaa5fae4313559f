"""The rows of many images: what the store has, and what it lacked, computed and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.ordered_map import batched
from compositional_prompts.compute.progress import progress
from compositional_prompts.compute.rows.computation import (
    Computation,
    Item,
    identity_of,
    key_array,
)
from compositional_prompts.compute.rows.engines import Engine, open_engine
from compositional_prompts.compute.rows.row_store import RowStore, StoredRows
from compositional_prompts.pipeline.section import Base

ROWS_AT_ONCE = 4096
"""Rows that are read at a time unless asked otherwise."""

ASKED_AT_ONCE = 64
"""Inputs of a stream that the store is asked about together."""

STREAM_ROWS = 1024
STREAM_BYTES = 64 * 2**20
"""What a stream holds of its inputs, about: enough for its workers to seldom wait for its end."""

Thing = TypeVar("Thing")


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


def open_rows(computation: Computation, base: Base) -> StoredRows:
    """The rows that are kept of a computation; the caller closes them.

    Raises:
        RowStoreError: the store cannot be used.
    """
    store = RowStore(base.rows.folder, base.rows.max_gib)
    description = computation.description()
    return store.open(computation.name, identity_of(description), description)


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
    with open_rows(computation, base) as stored:
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


class RowStream(Generic[Thing]):
    """Rows of inputs that come one after another and are held for a while only.

    Attributes:
        computed: how many rows were computed up to now.
    """

    def __init__(self, stored: StoredRows, engine: Engine) -> None:
        """:func:`open_row_stream` does."""
        self.computed = 0
        self._stored = stored
        self._engine = engine

    def rows_of(
        self, things: Iterable[Thing], item_of: Callable[[Thing], Item | None]
    ) -> Iterator[tuple[Thing, Any]]:
        """Every thing with the row of its item, in their order; None where it has no item.

        Up to :data:`STREAM_ROWS` things, or :data:`STREAM_BYTES` of their values, are in memory.
        They are taken while those before them are computed.

        Args:
            things: are taken as they are needed.
            item_of: what is computed on, of a thing; its value is bytes.
        """
        stream = iter(things)
        while True:
            taken: list[tuple[Thing, Item | None]] = []
            for keys, rows in self._engine.compute(self._missing(stream, item_of, taken)):
                self._stored.append(keys, rows)
                self.computed += len(keys)
            if not taken:
                return
            keys = key_array([item.key for _, item in taken if item is not None])
            found = iter(self._stored.read(keys))
            for thing, item in taken:
                yield thing, None if item is None else next(found)

    def _missing(
        self,
        stream: Iterator[Thing],
        item_of: Callable[[Thing], Item | None],
        taken: list[tuple[Thing, Item | None]],
    ) -> Iterator[Item]:
        """Take things from the stream; of their items those that have no row."""
        asked: set[bytes] = set()
        size = 0
        for some in batched(islice(stream, STREAM_ROWS), ASKED_AT_ONCE):
            pairs = [(thing, item_of(thing)) for thing in some]
            taken += pairs
            items = [item for _, item in pairs if item is not None]
            size += sum(len(item.value) for item in items)
            for position in self._stored.missing(key_array([item.key for item in items])).tolist():
                if items[position].key not in asked:
                    asked.add(items[position].key)
                    yield items[position]
            if size >= STREAM_BYTES:
                return


@contextmanager
def open_row_stream(computation: Computation, base: Base) -> Iterator[RowStream[Any]]:
    """As :func:`complete_rows`, where inputs are too many to be asked for twice.

    Raises:
        WorkerDiedError, OSError, Exception: as :func:`complete_rows`.
    """
    with open_rows(computation, base) as stored, open_engine(computation, base) as engine:
        yield RowStream(stored, engine)
