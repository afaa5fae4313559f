"""The join of tables on image_id: where the images that one names stand in another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compositional_prompts.files.outputs import MismatchedOutputsError

IDS_AT_ONCE = 2**17
"""Image_ids of a table that are compared at a time where it is read for them alone: some MiB."""

ImageIds: TypeAlias = Sequence[str] | pa.Array
Rows = NDArray[np.int64]


class ImageJoinError(MismatchedOutputsError):
    """A table lacks images of another, or has one twice."""


class ImageJoin:
    """The images that one table names, looked for in the batches of another.

    Memory holds the wanted image_ids, hashed anew for every batch, and a byte for each.

    Attributes:
        found: which of them were in a batch so far, bool ``[wanted]``. Processes that go through
            the table by parts bring it together before they :meth:`check`.
    """

    def __init__(
        self, wanted: ImageIds, wanted_by: Path | None, table: Path, *, exact: bool = False
    ) -> None:
        """Want images.

        Args:
            wanted: image_ids, without repeats.
            wanted_by: the table that names them, for errors; None where none does.
            table: the one to be searched, for errors.
            exact: whether it must have no others.

        Raises:
            ImageJoinError: an image is wanted twice.
        """
        self._wanted = _strings(wanted)
        self._names = "the images asked for" if wanted_by is None else f"the images of {wanted_by}"
        self._paths = [path for path in (wanted_by, table) if path is not None]
        self._wanted_by, self._table, self._exact = wanted_by, table, exact
        self._others: list[str] = []
        self.found: NDArray[np.bool_] = np.zeros(len(self._wanted), np.bool_)
        self._refuse_twice(_repeats(pc.index_in(self._wanted, self._wanted).to_numpy()), wanted_by)

    def find(self, ids: ImageIds) -> tuple[Rows, Rows]:
        """The wanted images of a batch of the table.

        Returns:
            Their places among the wanted and their rows in the batch, which ascend; int64.

        Raises:
            ImageJoinError: the table has one twice.
        """
        ids = _strings(ids)
        hits = pc.index_in(ids, self._wanted)
        places = hits.drop_null().to_numpy().astype(np.int64)
        known = hits.is_valid()
        rows = np.flatnonzero(known.to_numpy(zero_copy_only=False))
        self._refuse_twice(places[self.found[places]], self._table)
        self._refuse_twice(_repeats(places), self._table)
        self.found[places] = True
        if self._exact and hits.null_count:
            self._others += ids.filter(pc.invert(known)).to_pylist()
        return places, rows

    def check(self) -> None:
        """Check, at the end of the table, that every wanted image was in it.

        Raises:
            ImageJoinError: some were not; or, where the join is exact, there were others.
        """
        missing = np.flatnonzero(~self.found)
        if len(missing):
            first = self._wanted[int(missing[0])].as_py()
            self._refuse(f"{self._table} lacks {len(missing)} of {self._names}", first)
        if self._others:
            lacks = f"{self._wanted_by} lacks {len(self._others)} of the images of {self._table}"
            self._refuse(lacks, self._others[0])

    def _refuse(self, lacks: str, first: str) -> None:
        raise ImageJoinError(
            f"{lacks}, the first {first!r}: both must be made from one catalog.", *self._paths
        )

    def _refuse_twice(self, places: Rows, where: Path | None) -> None:
        if len(places):
            image_id = self._wanted[int(places[0])].as_py()
            raise ImageJoinError(
                f"{where} has image {image_id!r} in more than one row.", *self._paths
            )


def image_rows(
    wanted: ImageIds,
    ids: Iterable[pa.Array],
    *,
    table: Path,
    wanted_by: Path | None = None,
    exact: bool = False,
) -> Rows:
    """The row of each wanted image in a table, int64 ``[wanted]``.

    Args:
        wanted: image_ids, in any order; may repeat.
        ids: the image_ids of the table in large parts, of which one is in memory.
        table: as in :class:`ImageJoin`.
        wanted_by: as in :class:`ImageJoin`.
        exact: as in :class:`ImageJoin`.

    Raises:
        ImageJoinError: the table lacks one, or has one twice.
    """
    encoded = _strings(wanted).dictionary_encode()
    join = ImageJoin(encoded.dictionary, wanted_by, table, exact=exact)
    rows = np.zeros(len(encoded.dictionary), np.int64)
    first = 0
    for part in ids:
        places, found = join.find(part)
        rows[places] = first + found
        first += len(part)
    join.check()
    return np.asarray(rows[encoded.indices.to_numpy()], np.int64)


def rows_of_images(
    wanted: ImageIds,
    batches: Iterable[pa.RecordBatch],
    *,
    table: Path,
    wanted_by: Path | None = None,
) -> pa.Table:
    """The rows of some images of a table that is streamed, in the order of ``wanted``.

    Memory holds these rows and a batch.

    Args:
        wanted: image_ids, without repeats.
        batches: of the table, at least one, with a column ``image_id``; of any images.
        table: as in :class:`ImageJoin`.
        wanted_by: as in :class:`ImageJoin`.

    Raises:
        ImageJoinError: the table lacks one, or has one twice.
    """
    join = ImageJoin(wanted, wanted_by, table)
    order, parts = [np.empty(0, np.int64)], []
    for batch in batches:
        places, rows = join.find(batch.column("image_id"))
        order.append(places)
        parts.append(batch.take(pa.array(rows)))
    join.check()
    return pa.Table.from_batches(parts).take(np.argsort(np.concatenate(order)))


def _strings(ids: ImageIds) -> pa.StringArray:
    return ids.cast(pa.string()) if isinstance(ids, pa.Array) else pa.array(ids, pa.string())


def _repeats(places: Rows) -> Rows:
    """What stands in ``places`` for the second time or later."""
    again = np.ones(len(places), np.bool_)
    again[np.unique(places, return_index=True)[1]] = False
    return places[again]
