"""Encoded images by their row in the catalog, in any order."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from compositional_prompts.catalog.reading import open_shard, read_group
from compositional_prompts.files.table_shards import shard_files


class CatalogImages:
    """The catalog's encoded images in any order.

    Parquet gives no less than a row group (here up to 256 images or 8 MiB), far too much for one
    image. So the first read of a row group unpacks all of it into a temporary file without a name,
    and every read is one ``pread`` of that file. What it costs: each row group is decompressed
    once a process, and the disk of ``TMPDIR`` holds, until the process ends however it ends, the
    encoded images of the row groups read. Memory holds 16 bytes an image and one row group.

    Safe to use from several threads.
    """

    def __init__(self, directory: Path) -> None:
        """Open ``data/catalog/``.

        Raises:
            FileNotFoundError, SchemaError: as :func:`reading.iterate_batches`.
        """
        self._groups: list[tuple[Path, int]] = []
        sizes = []
        for shard in shard_files(directory):
            with open_shard(shard) as file:
                for group in range(file.num_row_groups):
                    self._groups.append((shard, group))
                    sizes.append(file.metadata.row_group(group).num_rows)
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._offsets = np.zeros(len(self), np.int64)
        self._lengths = np.zeros(len(self), np.int64)
        self._unpacked = np.zeros(len(self._groups), np.bool_)
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile(prefix="compositional-prompts-")  # noqa: SIM115

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The encoded images of the given rows, in their order.

        Raises:
            IndexError: a row is not one of the catalog's.
        """
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(
                f"rows {rows.min()} to {rows.max()} were asked for; the catalog has {len(self)}."
            )
        groups = np.unique(np.searchsorted(self._starts, rows, side="right") - 1)
        with self._lock:
            for group in groups[~self._unpacked[groups]].tolist():
                self._unpack(group)
        descriptor = self._file.fileno()
        return [
            os.pread(descriptor, length, offset)
            for length, offset in zip(
                self._lengths[rows].tolist(), self._offsets[rows].tolist(), strict=True
            )
        ]

    def _unpack(self, group: int) -> None:
        shard, number = self._groups[group]
        with open_shard(shard) as file:
            images = read_group(file, shard, number, ["image"]).column("image").combine_chunks()
        encoded = images.field("bytes")
        lengths = pc.binary_length(encoded).to_numpy().astype(np.int64)
        rows = slice(self._starts[group], self._starts[group + 1])
        end = self._file.seek(0, os.SEEK_END)
        self._offsets[rows] = end + np.cumsum(lengths) - lengths
        self._lengths[rows] = lengths
        for image in encoded:
            self._file.write(image.as_buffer())
        self._file.flush()
        self._unpacked[group] = True
