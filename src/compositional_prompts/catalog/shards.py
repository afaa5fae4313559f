"""Writing the catalog: a stream of rows into Parquet shards that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from compositional_prompts.catalog.schema import CATALOG, CatalogRow
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.files.tables import check_no_nulls, photo_writer

# A row group is the least that a reader decodes: small, so that readers stream and can skip.
_GROUP_ROWS: Final = 256
_GROUP_BYTES: Final = 8 * 2**20
# What the footer and the page headers of a row group take, at most.
_GROUP_OVERHEAD: Final = 8 * 2**10


class DuplicateImageError(ValueError):
    """Two rows have one image_id."""


class ShardWriter:
    """Appends rows to ``part-00000.parquet``, ``part-00001.parquet``, ... of a directory.

    Memory holds one row group of images and every image_id.
    """

    def __init__(self, directory: Path, shard_mib: int) -> None:
        self._directory = directory
        self._shard_bytes = shard_mib * 2**20
        self._group_bytes = min(_GROUP_BYTES, self._shard_bytes // 8)
        self._shards = 0
        self._sink: pa.OSFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._groups_in_shard = 0
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._places: dict[str, str] = {}

    def write(self, row: CatalogRow) -> None:
        """Append one row.

        Raises:
            DuplicateImageError: its image_id was written before; names both places.
            ValueError: it has no image, or only one of attribute and object.
        """
        if row.image is None:
            raise ValueError(f"{row.path}: the image has no bytes and cannot be written.")
        if (row.attribute is None) != (row.object is None):
            raise ValueError(
                f"{row.path}: attribute {row.attribute!r} and object {row.object!r} must be "
                "given together."
            )
        if row.image_id in self._places:
            raise DuplicateImageError(
                f"image_id {row.image_id!r} occurs twice: {self._places[row.image_id]!r} and "
                f"{row.path!r}; every image needs an id of its own."
            )
        self._places[row.image_id] = row.path
        size = len(row.image)
        if self._rows and (
            len(self._rows) == _GROUP_ROWS or self._bytes + size > self._group_bytes
        ):
            self._write_group()
        values = row._asdict()
        del values["truth"]  # a table of its own
        values["content"] = content_digest(row.image)
        values["image"] = {"bytes": row.image, "path": values.pop("path")}
        self._rows.append(values)
        self._bytes += size

    def finish(self) -> None:
        """Write what is still held and close the last shard."""
        if self._rows:
            self._write_group()
        self.close()

    def close(self) -> None:
        """Close the shard being written, whatever its state."""
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._sink.close()
        self._writer = self._sink = None

    def _write_group(self) -> None:
        table = pa.Table.from_pylist(self._rows, CATALOG)
        check_no_nulls(table, CATALOG, self._directory)
        if self._sink is not None:
            expected = self._sink.tell() + table.nbytes
            expected += (self._groups_in_shard + 1) * _GROUP_OVERHEAD
            if expected > self._shard_bytes:
                self.close()
        if self._writer is None:
            shard = self._directory / f"part-{self._shards:05d}.parquet"
            self._sink = pa.OSFile(str(shard), "wb")
            self._writer = photo_writer(self._sink, CATALOG)
            self._shards += 1
            self._groups_in_shard = 0
        self._writer.write_table(table)
        self._groups_in_shard += 1
        self._rows, self._bytes = [], 0


@contextmanager
def open_shards(directory: Path, shard_mib: int) -> Iterator[ShardWriter]:
    """A writer of the catalog at ``directory``, which appears, or is replaced, if the block ends.

    Args:
        directory: ``data/catalog/``.
        shard_mib: the size of a shard in MiB at most; an image larger than that has its own shard.
    """
    with atomic_directory(directory) as temporary:
        writer = ShardWriter(temporary, shard_mib)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()
