"""Writing the catalog: a stream of rows into Parquet shards that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from compositional_prompts.catalog.schema import CATALOG, CatalogRow
from compositional_prompts.files.content_cuts import ContentCuts
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.distinct import Distinct
from compositional_prompts.files.outputs import atomic_directory, atomic_file
from compositional_prompts.files.tables import check_no_nulls, open_parquet, photo_writer

# A row group is the least that a reader decodes: small, so that readers stream and can skip.
_GROUP_ROWS: Final = 256
_GROUP_BYTES: Final = 8 * 2**20
_GROUPS_A_SHARD: Final = 8
"""Of a full shard, where images are large: two groups that follow each other are more than one."""
# What the footer and the page headers of a row group take, at most, and with it a row of a group
# that is full of rows, beside its values.
_GROUP_OVERHEAD: Final = 8 * 2**10
_ROW_OVERHEAD: Final = _GROUP_OVERHEAD // _GROUP_ROWS + 32


class DuplicateImageError(ValueError):
    """Two rows have one image_id."""


class ShardWriter:
    """Appends rows to ``part-00000.parquet``, ``part-00001.parquet``, ... of a directory.

    Shards are cut by :class:`~compositional_prompts.files.content_cuts.ContentCuts`, by image and
    image_id, and row groups are counted from the start of their shard: the bytes of a shard depend
    on its rows alone.

    Memory holds one row group of images, and about 40 bytes an image.

    Attributes:
        equal_images: how many images are byte for byte one that was written before, under another
            image_id.
    """

    def __init__(self, directory: Path, shard_mib: int) -> None:
        self._directory = directory
        shard_bytes = shard_mib * 2**20
        self._group_bytes = min(_GROUP_BYTES, shard_bytes // _GROUPS_A_SHARD)
        groups = 2 * shard_bytes // self._group_bytes + 1
        self._cuts = ContentCuts(shard_bytes - groups * _GROUP_OVERHEAD)
        self._shards = 0
        self._sink: pa.OSFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._ids = Distinct()
        self._contents = Distinct()
        self.equal_images = 0

    def write(self, row: CatalogRow) -> None:
        """Append one row.

        Raises:
            DuplicateImageError: its image_id was written before; names both places.
            ValueError: it has no image, or an attribute without an object.
        """
        if row.image is None:
            raise ValueError(f"{row.path}: the image has no bytes and cannot be written.")
        if row.attribute is not None and row.object is None:
            raise ValueError(f"{row.path}: attribute {row.attribute!r} has no object beside it.")
        if not self._ids.add(row.image_id.encode()):
            self._refuse_twice(row)
        values = row._asdict()
        del values["truth"], values["rejection"]  # tables of their own
        values["content"] = content_digest(row.image)
        self.equal_images += not self._contents.add(values["content"])
        values["image"] = {"bytes": row.image, "path": values.pop("path")}
        size = len(row.image)
        texts = sum(len(text.encode()) for text in row if isinstance(text, str))
        if self._cuts.starts(
            values["content"] + row.image_id.encode(), size + texts + _ROW_OVERHEAD
        ):
            self._end_shard()
        elif len(self._rows) == _GROUP_ROWS or self._bytes + size > self._group_bytes:
            self._write_group()
        self._rows.append(values)
        self._bytes += size

    def _refuse_twice(self, row: CatalogRow) -> None:
        """Find the row of the same image_id among those written; digests may be equal by chance."""
        self._end_shard()
        for shard in sorted(self._directory.glob("*.parquet")):
            with open_parquet(shard) as file:
                table = file.read(["image_id", "image.path"])
            found = table.filter(pc.equal(table["image_id"], row.image_id))["image"].to_pylist()
            if found:
                raise DuplicateImageError(
                    f"image_id {row.image_id!r} occurs twice: {found[0]['path']!r} and "
                    f"{row.path!r}; every image needs an id of its own."
                )

    def finish(self) -> None:
        """Write what is still held and close the last shard."""
        self._end_shard()

    def close(self) -> None:
        """Close the shard being written, whatever its state."""
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._sink.close()
        self._writer = self._sink = None

    def _end_shard(self) -> None:
        if self._rows:
            self._write_group()
        self.close()

    def _write_group(self) -> None:
        table = pa.Table.from_pylist(self._rows, CATALOG)
        check_no_nulls(table, CATALOG, self._directory)
        if self._writer is None:
            shard = self._directory / f"part-{self._shards:05d}.parquet"
            self._sink = pa.OSFile(str(shard), "wb")
            self._writer = photo_writer(self._sink, CATALOG)
            self._shards += 1
        self._writer.write_table(table)
        self._rows, self._bytes = [], 0


def rewrite_labels(
    directory: Path,
    attributes: Mapping[str, str],
    objects: Mapping[str, str],
    *,
    pairs_only: bool,
) -> None:
    """Write labels of a catalog otherwise; shards in which none changes are left as they are.

    Args:
        directory: ``data/catalog/``; each shard is replaced whole.
        attributes: what is written for some of them.
        objects: the same.
        pairs_only: take the label from every image that has an object and no attribute.
    """
    for shard in sorted(directory.glob("*.parquet")):
        with open_parquet(shard) as file:
            labels = file.read(["attribute", "object"])
            if _relabelled(labels, attributes, objects, pairs_only=pairs_only).equals(labels):
                continue
            with atomic_file(shard) as temporary, photo_writer(temporary, CATALOG) as writer:
                for number in range(file.num_row_groups):
                    group = file.read_row_group(number)
                    writer.write_table(
                        _relabelled(group, attributes, objects, pairs_only=pairs_only)
                    )


def _relabelled(
    table: pa.Table,
    attributes: Mapping[str, str],
    objects: Mapping[str, str],
    *,
    pairs_only: bool,
) -> pa.Table:
    for name, spellings in (("attribute", attributes), ("object", objects)):
        column = _respelled(table[name], spellings)
        if name == "object" and pairs_only:
            column = pc.if_else(
                pc.is_valid(table["attribute"]), column, pa.scalar(None, pa.string())
            )
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(place), column)
    return table


def _respelled(column: pa.ChunkedArray, spellings: Mapping[str, str]) -> pa.Array:
    """A column of text with other texts for some of its own."""
    others = pa.array(spellings.values(), pa.string())
    places = pc.index_in(column, value_set=pa.array(spellings.keys(), pa.string()))
    return pc.coalesce(others.take(places.combine_chunks()), column.combine_chunks())


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
