"""A table read beside another: its rows of the other's images, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.catalog.image_join import ImageJoin

Batches = Callable[[], Iterator[pa.RecordBatch]]


class AlignedTable:
    """The rows of a table in the order of another one that has the same images.

    Tables of one catalog are in its order, and then nothing but a block is in memory. In any other
    order it is read all the same: what is not asked for yet waits in memory.
    """

    def __init__(self, batches: Batches, table: Path, wanted: Batches, wanted_by: Path) -> None:
        """Open the table.

        Args:
            batches: starts reading the table, with a column ``image_id``.
            table: its name, for errors.
            wanted: starts reading the other table's ``image_id``, to name what is wrong.
            wanted_by: its name, for errors.
        """
        self._again, self._wanted = batches, wanted
        self._table, self._wanted_by = table, wanted_by
        self._batches = batches()
        self._waiting: pa.Table | None = None

    @property
    def waiting_rows(self) -> int:
        """Rows in memory that were read and not yet asked for."""
        return 0 if self._waiting is None else self._waiting.num_rows

    def take(self, ids: pa.StringArray) -> pa.Table:
        """The rows of the next images of the other table, in their order.

        Raises:
            ImageJoinError: the tables are not of the same images, or one has an image twice.
        """
        places = self._places(ids)
        while places.null_count:
            batch = next(self._batches, None)
            if batch is None:
                self._refuse()
            parts = [pa.Table.from_batches([batch])]
            if self._waiting is not None:
                parts.insert(0, self._waiting)
            self._waiting = pa.concat_tables(parts)
            places = self._places(ids)
        assert self._waiting is not None  # it has the rows of all ids
        table = self._waiting.take(places)
        others = pc.invert(pc.is_in(self._waiting.column("image_id"), value_set=ids))
        left = self._waiting.filter(others).combine_chunks()
        if self._waiting.num_rows - left.num_rows != len(ids):
            self._refuse()  # an image is there twice, here or among those asked for
        self._waiting = left
        return table

    def check(self) -> None:
        """Check, when all were taken, that the table has no other rows.

        Raises:
            ImageJoinError: it has others, or an image twice.
        """
        if self.waiting_rows or next(self._batches, None) is not None:
            self._refuse()

    def _places(self, ids: pa.StringArray) -> pa.Array:
        if self._waiting is None:
            return pa.nulls(len(ids), pa.int32())
        return pc.index_in(ids, value_set=self._waiting.column("image_id").combine_chunks())

    def _refuse(self) -> NoReturn:
        """Compare both tables whole, and say what is wrong."""
        wanted = pa.concat_arrays([batch.column("image_id") for batch in self._wanted()])
        join = ImageJoin(wanted, self._wanted_by, self._table, exact=True)
        for batch in self._again():
            join.find(batch.column("image_id"))
        join.check()
        raise AssertionError(f"{self._table} and {self._wanted_by} have the same images.")
