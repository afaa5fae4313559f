"""The hub's layout: Parquet shards by split, with photos that ``datasets`` decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from compositional_prompts.deployment.dataset_export.forms.form_writer import (
    SHARD_BYTES,
    SPLIT_FOLDERS,
    Values,
)
from compositional_prompts.deployment.dataset_export.photo_files import PhotoFile
from compositional_prompts.files.content_cuts import ContentCuts
from compositional_prompts.files.tables import IMAGE, photo_writer, with_image_feature

_GROUP_ROWS: Final = 256
_GROUP_BYTES: Final = 8 * 2**20
"""A row group is the least that a reader decodes."""

DATA: Final = "data"


class HubParquet:
    """``data/train-00000-of-00003.parquet`` and so on.

    Shards are cut by their content, so that a grown data set leaves most of them the same, and is
    not uploaded again. Memory holds a row group of each split.
    """

    def __init__(self, directory: Path, schema: pa.Schema, shard_bytes: int = SHARD_BYTES) -> None:
        self._directory = directory / DATA
        self._directory.mkdir()
        self._schema = with_image_feature(pa.schema([pa.field("image", IMAGE), *schema]))
        self._shard_bytes = shard_bytes
        self._splits: dict[str, _SplitShards] = {}

    def write(self, values: Values, photo: PhotoFile | None) -> None:
        assert photo is not None
        split = SPLIT_FOLDERS[values["split"]]
        if split not in self._splits:
            self._splits[split] = _SplitShards(
                self._directory, split, self._schema, self._shard_bytes
            )
        self._splits[split].write(values, photo)

    def finish(self) -> None:
        for shards in self._splits.values():
            shards.finish()


class _SplitShards:
    def __init__(self, directory: Path, split: str, schema: pa.Schema, shard_bytes: int) -> None:
        self._directory, self._split, self._schema = directory, split, schema
        self._cuts = ContentCuts(shard_bytes)
        self._shards: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, values: Values, photo: PhotoFile) -> None:
        size = len(photo.encoded) + sum(
            len(text.encode()) for text in values.values() if isinstance(text, str)
        )
        if self._cuts.starts(values["image_id"].encode(), size):
            self._end_shard()
        elif len(self._rows) == _GROUP_ROWS or self._bytes + size > _GROUP_BYTES:
            self._write_group()
        self._rows.append({"image": {"bytes": photo.encoded, "path": photo.name}, **values})
        self._bytes += size

    def finish(self) -> None:
        """Close the last shard, and name each by how many there are."""
        self._end_shard()
        for number, shard in enumerate(self._shards):
            name = f"{self._split}-{number:05d}-of-{len(self._shards):05d}.parquet"
            shard.rename(self._directory / name)

    def _end_shard(self) -> None:
        if self._rows:
            self._write_group()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write_group(self) -> None:
        if self._writer is None:
            shard = self._directory / f"{self._split}-{len(self._shards):05d}.parquet"
            self._shards.append(shard)
            self._writer = photo_writer(shard, self._schema)
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._bytes = [], 0
