"""Reading the catalog: streamed batches, labels without images, and a few images by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from compositional_prompts.catalog.image_join import IDS_AT_ONCE, ImageJoin, image_rows
from compositional_prompts.catalog.schema import CATALOG
from compositional_prompts.files.table_shards import shard_files
from compositional_prompts.files.tables import (
    SchemaError,
    as_declared,
    check_schema,
    count_table_rows,
    open_parquet,
)

LABEL_COLUMNS = tuple(name for name in CATALOG.names if name not in ("image", "content"))
"""What is known of every image: small enough to be read whole."""


def count_rows(directory: Path) -> int:
    """The number of images in the catalog, from the shards' footers.

    Raises:
        MissingOutputError: the directory is not there.
        DamagedOutputError: it holds no shard.
    """
    return sum(count_table_rows(shard) for shard in shard_files(directory))


def iterate_batches(
    directory: Path,
    columns: Sequence[str],
    rows: range | None = None,
    batch_size: int = 256,
) -> Iterator[pa.RecordBatch]:
    """Stream the catalog in its own order, holding no more than a batch and a row group.

    Args:
        directory: ``data/catalog/``.
        columns: names of catalog columns; batches have them in this order.
        rows: positions to read, counted over all shards; row groups outside are not read.
            None reads everything.
        batch_size: rows a batch; only the last batch may be smaller.

    Raises:
        MissingOutputError: the directory is not there.
        DamagedOutputError: it holds no shard.
        SchemaError: a shard or a column asked for is not as the catalog is declared.
        ValueError: ``rows`` has a step or reaches outside the catalog, or ``batch_size`` is < 1.
    """
    shards = shard_files(directory)
    _check_columns(columns)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}.")
    if rows is not None:
        total = count_rows(directory)
        if rows.step != 1 or rows.start < 0 or rows.stop > total:
            raise ValueError(f"{directory}: rows {rows} are not a run of its {total} rows.")
    return _rebatched(_selected(shards, columns, rows, batch_size), batch_size)


def read_labels(
    directory: Path, columns: Sequence[str] = LABEL_COLUMNS, *, repeated: Collection[str] = ()
) -> pa.Table:
    """Read columns other than ``image`` whole, in the order of the catalog.

    Args:
        directory: ``data/catalog/``.
        columns: names of catalog columns.
        repeated: those of few values, to be held as dictionaries: 4 bytes a row.

    Raises:
        FileNotFoundError, SchemaError: as :func:`iterate_batches`.
        ValueError: ``image`` is asked for: images are streamed, or read by name.
    """
    if "image" in columns:
        raise ValueError("read_labels reads no images: use iterate_batches or read_images.")
    schema = pa.schema(
        [
            field.with_type(pa.dictionary(pa.int32(), field.type))
            if field.name in repeated
            else field
            for field in _schema(columns)
        ]
    )
    batches = (
        pa.record_batch(
            [
                column.dictionary_encode() if name in repeated else column
                for name, column in zip(columns, batch.columns, strict=True)
            ],
            schema=schema,
        )
        for batch in iterate_batches(directory, columns, batch_size=65536)
    )
    return pa.Table.from_batches(batches, schema)


def iterate_ids(directory: Path) -> Iterator[pa.StringArray]:
    """The image_ids of the catalog in large parts, in its order.

    Raises:
        MissingOutputError, SchemaError: as :func:`iterate_batches`.
    """
    for batch in iterate_batches(directory, ["image_id"], batch_size=IDS_AT_ONCE):
        yield batch.column("image_id")


def iterate_images(
    directory: Path, image_ids: Sequence[str], batch_size: int = 64
) -> Iterator[pa.RecordBatch]:
    """Stream some images by name, in the order of the catalog, holding no more than a batch.

    Row groups that hold none of them are not read.

    Yields:
        Columns ``image_id`` and ``image`` of at most ``batch_size`` images.

    Raises:
        FileNotFoundError, SchemaError: as :func:`iterate_batches`.
        ImageJoinError: an image_id is asked for twice, or is not in the catalog; the latter at
            the end.
    """
    columns = ["image_id", "image"]
    join = ImageJoin(image_ids, None, directory)
    for shard in shard_files(directory):
        with open_shard(shard) as file:
            for group in range(file.num_row_groups):
                ids = read_group(file, shard, group, ["image_id"]).column("image_id")
                _, rows = join.find(ids.combine_chunks())
                wanted = set(rows.tolist())
                if not wanted:
                    continue
                first, position = _rows_before(file, group), 0
                for batch in file.iter_batches(batch_size, row_groups=[group], columns=columns):
                    mask = [row in wanted for row in range(position, position + len(batch))]
                    if any(mask):
                        declared = as_declared(batch, _schema(columns), shard, first + position)
                        yield declared.filter(pa.array(mask))
                    position += len(batch)
    join.check()


def iterate_positions(
    directory: Path, columns: Sequence[str], positions: NDArray[np.int64], batch_size: int = 64
) -> Iterator[pa.RecordBatch]:
    """Stream some rows by their place in the catalog; row groups that hold none are not read.

    Args:
        directory: ``data/catalog/``.
        columns: names of catalog columns.
        positions: ascending, int64 ``[n]``.
        batch_size: rows a batch at most.

    Raises:
        MissingOutputError, SchemaError: as :func:`iterate_batches`.
        IndexError: a position is not one of the catalog's.
    """
    first = done = 0
    for shard in shard_files(directory):
        with open_shard(shard) as file:
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                stop = int(np.searchsorted(positions, end))
                if done < stop:
                    row = first
                    for batch in file.iter_batches(
                        batch_size, row_groups=[group], columns=list(columns)
                    ):
                        last = done + int(
                            np.searchsorted(positions[done:stop], row + batch.num_rows)
                        )
                        if done < last:
                            declared = as_declared(batch, _schema(columns), shard, row)
                            yield declared.take(pa.array(positions[done:last] - row))
                        row, done = row + batch.num_rows, last
                first = end
    if done < len(positions):
        raise IndexError(f"{directory}: row {positions[done]} of {first} was asked for.")


def read_images(directory: Path, image_ids: Sequence[str]) -> pa.Table:
    """Read a few images by name; row groups that hold none of them are not read.

    Returns:
        Columns ``image_id`` and ``image``, a row for each of ``image_ids``, in their order.

    Raises:
        FileNotFoundError, SchemaError, ImageJoinError: as :func:`iterate_images`.
    """
    batches = list(iterate_images(directory, list(dict.fromkeys(image_ids))))
    table = pa.Table.from_batches(batches, _schema(["image_id", "image"]))
    return table.take(image_rows(image_ids, table.column("image_id").chunks, table=directory))


def open_shard(shard: Path) -> pq.ParquetFile:
    """Open a shard; the caller closes it.

    Raises:
        SchemaError: its columns are not as the catalog is declared.
    """
    file = open_parquet(shard)
    try:
        check_schema(file.schema_arrow, CATALOG, shard)
    except SchemaError:
        file.close()
        raise
    return file


def read_group(file: pq.ParquetFile, shard: Path, group: int, columns: Sequence[str]) -> pa.Table:
    """Columns of one row group of an open shard.

    Raises:
        SchemaError: a row lacks its image, or another value that it must have.
    """
    first = _rows_before(file, group)
    return as_declared(file.read_row_group(group, columns), _schema(columns), shard, first)


def _rows_before(file: pq.ParquetFile, group: int) -> int:
    return sum(file.metadata.row_group(number).num_rows for number in range(group))


def _schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([CATALOG.field(name) for name in columns])


def _check_columns(columns: Sequence[str]) -> None:
    for name in columns:
        if name not in CATALOG.names:
            raise SchemaError(
                f"the catalog has no column {name!r}; it has {', '.join(CATALOG.names)}."
            )


def _selected(
    shards: list[Path], columns: Sequence[str], rows: range | None, batch_size: int
) -> Iterator[pa.RecordBatch]:
    """The rows asked for, as the row groups cut them."""
    first = 0
    for shard in shards:
        with open_shard(shard) as file:
            if rows is None and "image" not in columns:
                # Labels of a shard are few bytes, and a read for each row group takes far longer.
                yield from _declared(file.iter_batches(batch_size, columns=list(columns)), shard)
                continue
            in_shard = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                start, stop = 0, size
                if rows is not None:
                    start, stop = max(rows.start - first, 0), min(rows.stop - first, size)
                if start < stop:
                    batches = _group_rows(file, group, columns, batch_size, start, stop)
                    yield from _declared(batches, shard, in_shard + start)
                first += size
                in_shard += size


def _declared(
    batches: Iterator[pa.RecordBatch], shard: Path, row: int = 0
) -> Iterator[pa.RecordBatch]:
    """Batches of a shard that follow each other from a row on, as they are declared."""
    for batch in batches:
        yield as_declared(batch, _schema(batch.schema.names), shard, row)
        row += batch.num_rows


def _group_rows(
    file: pq.ParquetFile, group: int, columns: Sequence[str], batch_size: int, start: int, stop: int
) -> Iterator[pa.RecordBatch]:
    position = 0
    for batch in file.iter_batches(batch_size, row_groups=[group], columns=list(columns)):
        begin = max(start - position, 0)
        end = min(stop - position, batch.num_rows)
        position += batch.num_rows
        if begin < end:
            yield batch.slice(begin, end - begin)


def _rebatched(batches: Iterator[pa.RecordBatch], batch_size: int) -> Iterator[pa.RecordBatch]:
    """The same rows cut into batches of ``batch_size``."""
    waiting: list[pa.RecordBatch] = []
    waiting_rows = 0
    for batch in batches:
        begin = 0
        while begin < batch.num_rows:
            part = batch.slice(begin, batch_size - waiting_rows)
            waiting.append(part)
            waiting_rows += part.num_rows
            begin += part.num_rows
            if waiting_rows == batch_size:
                yield pa.concat_batches(waiting)
                waiting, waiting_rows = [], 0
    if waiting:
        yield pa.concat_batches(waiting)
