"""A table in several Parquet files, cut by its rows: what grows in one place stays elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from compositional_prompts.files.content_cuts import ContentCuts
from compositional_prompts.files.outputs import (
    DamagedOutputError,
    atomic_directory,
    require_outputs,
)
from compositional_prompts.files.tables import iterate_table, parquet_writer


def shard_files(directory: Path) -> list[Path]:
    """The shards of a table, in its order.

    Raises:
        MissingOutputError: the directory is not there.
        DamagedOutputError: it holds no shard.
    """
    require_outputs(directory)
    shards = sorted(directory.glob("*.parquet"))
    if not shards:
        raise DamagedOutputError(f"{directory} holds no Parquet shard.", directory)
    return shards


def iterate_shards(
    directory: Path, schema: pa.Schema, rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream a table, at most ``rows`` rows at a time, shard after shard.

    Raises:
        MissingOutputError, DamagedOutputError: as :func:`shard_files`.
        SchemaError: as :func:`~compositional_prompts.files.tables.iterate_table`.
    """
    for shard in shard_files(directory):
        yield from iterate_table(shard, schema, rows, columns)


class TableShards:
    """Appends rows to ``part-00000.parquet``, ``part-00001.parquet``, ... of a directory.

    The bytes of a shard depend on its rows alone. Memory holds one shard.
    """

    def __init__(self, directory: Path, largest: int) -> None:
        self._directory = directory
        self._cuts = ContentCuts(largest)
        self._shards = 0
        self._waiting: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch, ids: Sequence[str], row_bytes: int) -> None:
        """Append rows.

        Args:
            batch: the rows.
            ids: what tells each from all others, such as its image_id.
            row_bytes: what a row takes, beside the bytes of its id.
        """
        begin = 0
        for row, name in enumerate(ids):
            key = name.encode()
            if self._cuts.starts(key, row_bytes + len(key)):
                self._keep(batch, begin, row)
                self.finish()
                begin = row
        self._keep(batch, begin, len(ids))

    def _keep(self, batch: pa.RecordBatch, begin: int, end: int) -> None:
        if begin < end:
            self._waiting.append(batch.slice(begin, end - begin))

    def finish(self) -> None:
        """Write what is still held."""
        if not self._waiting:
            return
        # One chunk: pages are cut by chunks too, and these came as they were computed.
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        shard = self._directory / f"part-{self._shards:05d}.parquet"
        with parquet_writer(shard, table.schema, use_dictionary=False) as writer:
            writer.write_table(table)
        self._shards += 1
        self._waiting = []


@contextmanager
def open_table_shards(directory: Path, largest: int) -> Iterator[TableShards]:
    """A writer of a table at ``directory``, which appears, or is replaced, if the block ends.

    Args:
        directory: of the shards.
        largest: bytes of a shard at most, as rows are declared; a quarter of it is the mean.
    """
    with atomic_directory(directory) as temporary:
        writer = TableShards(temporary, largest)
        yield writer
        writer.finish()
