"""The frozen-feature cache: Q-Former output of every image, read row by row.

``data/features/`` holds

- ``features-00000.safetensors`` and so on, at most 64 MiB each: one tensor, ``features``, of shape
  ``[rows, queries, width]``;
- ``index.parquet`` (image_id, shard, row), in the order of the shards: an image's position is
  its row in it;
- ``features.json``: ``cache`` true, with dtype, queries, width and images, ``computation`` (the
  identity of what made them), ``contents`` (a digest of the images' contents in their order) and
  ``checksums`` (CRC-32 of every other file, by its name);
  or, where nothing is cached, ``cache`` false and nothing beside it.

The features are those of evaluation mode: in training mode transformers would switch on the frozen
Q-Former's dropout, which a cache leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compositional_prompts.catalog.image_join import IDS_AT_ONCE, image_rows
from compositional_prompts.files.digests import file_checksum
from compositional_prompts.files.outputs import DamagedOutputError, require_outputs
from compositional_prompts.files.records.json_objects import read_json_object
from compositional_prompts.files.tables import (
    check_schema,
    count_table_rows,
    open_parquet,
    parquet_schema,
    required,
)

FEATURE_INDEX = pa.schema(
    [
        required("image_id", pa.string()),
        required("shard", pa.int32()),
        required("row", pa.int32()),
    ]
)
"""``data/features/index.parquet``: the shard and the row in it that hold an image's features."""


INDEX_FILE = "index.parquet"
METADATA_FILE = "features.json"
TENSOR = "features"

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""What features may be stored as."""

FeatureBatch = tuple[Sequence[str], Tensor]
"""Image_ids and their features ``[n, queries, width]``."""


def shard_name(number: int) -> str:
    return f"features-{number:05d}.safetensors"


def read_metadata(directory: Path) -> dict[str, Any]:
    """What ``features.json`` says.

    Raises:
        MissingOutputError: it is not there.
        DamagedOutputError: it is damaged, or of another version.
    """
    path = directory / METADATA_FILE
    metadata = read_json_object(path, "cache")
    return read_json_object(path, "images") if metadata["cache"] else metadata


class ImageInputs(Protocol):
    """What the captioner is fed from: cached query features, or pixels where there is no cache."""

    def positions(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Where the given images are, int64 ``[n]``.

        Raises:
            ImageJoinError: one of them is unknown.
        """
        ...

    def read(self, positions: NDArray[np.int64]) -> Tensor:
        """Query features ``[n, queries, width]`` or pixel_values ``[n, 3, H, W]``, on the CPU."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Which epoch augmented images are drawn for; without effect where none are."""
        ...


class DamagedShardError(DamagedOutputError):
    """A shard's bytes are not those of a shard."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"{path} is damaged ({found}).", path)


def map_shard(path: Path) -> Tensor:
    """The features of a shard, ``[rows, queries, width]``, mapped from its file.

    Raises:
        MissingOutputError: it is not there.
        DamagedShardError: it is not a shard.
    """
    require_outputs(path)
    try:
        with safe_open(path, "pt") as file:
            features: Tensor = file.get_tensor(TENSOR)
    except SafetensorError as error:
        raise DamagedShardError(path, str(error)) from error
    if features.ndim != 3 or features.dtype not in DTYPES:
        raise DamagedShardError(path, f"features {list(features.shape)} of {features.dtype}")
    return features


def _checksums(metadata: Mapping[str, Any], directory: Path) -> Mapping[str, str]:
    found = metadata.get("checksums")
    if not isinstance(found, dict):
        raise DamagedOutputError(
            f"{directory / METADATA_FILE} has no checksums of the shards.", directory
        )
    return found


def _count_indexed(index: Path) -> int:
    """The rows of an index, its columns checked."""
    require_outputs(index)
    check_schema(parquet_schema(index), FEATURE_INDEX, index)
    return count_table_rows(index)


class FeatureStore:
    """Random access to the cached features.

    Shards are mapped: rows are copied out of the operating system's cache of their files. What was
    read counts as resident memory of the process (``RssFile``, and its peak), up to the size of the
    cache, though the system takes it back where memory is short; the store's own memory
    (``RssAnon``) is a few bytes a shard. A shard is compared with its checksum when something of it
    is first wanted. Threads may share a store.
    """

    def __init__(self, directory: Path) -> None:
        """Open a cache.

        Raises:
            MissingOutputError: the cache or one of its shards is missing.
            DamagedOutputError: its files do not belong together, have no checksums, or the index is
                not as its checksum.
            ValueError: ``directory`` says that there is no cache.
        """
        metadata = read_metadata(directory)
        if not metadata["cache"]:
            raise ValueError(
                f"{directory} holds no features: set blip2_features.cache to true, or read pixels."
            )
        self._directory = directory
        self._checksums = _checksums(metadata, directory)
        self._sound: set[int] = set()
        self._images: int = metadata["images"]
        self._paths: list[Path] = []
        self._shards: list[Tensor] = []
        rows = 0
        while rows < self._images:
            self._paths.append(directory / shard_name(len(self._paths)))
            self._shards.append(map_shard(self._paths[-1]))
            rows += len(self._shards[-1])
        layouts = {(*shard.shape[1:], shard.dtype) for shard in self._shards}
        indexed = _count_indexed(directory / INDEX_FILE)
        if len(layouts) != 1 or not rows == indexed == self._images:
            raise DamagedOutputError(
                f"{directory}: {METADATA_FILE} names {self._images} images, {INDEX_FILE} has "
                f"{indexed} and the shards {rows}, in the layouts {layouts}.",
                directory,
            )
        self._require_checksum(directory / INDEX_FILE)
        ((self.queries, self.width, self.dtype),) = layouts
        self._sizes = [path.stat().st_size for path in self._paths]
        # Numpy knows no bfloat16.
        self._rows = [shard.view(torch.uint8).flatten(1).numpy() for shard in self._shards]
        self._starts = np.cumsum([0, *map(len, self._shards)])

    def __len__(self) -> int:
        return self._images

    def set_epoch(self, epoch: int) -> None:
        """Features are the same in every epoch."""

    def positions(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Where the given images are, int64 ``[n]``. Reads the index: ask for many at once.

        Raises:
            ImageJoinError: an image has no features.
        """
        path = self._directory / INDEX_FILE
        with open_parquet(path) as index:
            parts = index.iter_batches(IDS_AT_ONCE, columns=["image_id"])
            return image_rows(image_ids, (part.column("image_id") for part in parts), table=path)

    def read(self, positions: NDArray[np.int64]) -> Tensor:
        """Features at the given positions, in their order: ``[n, queries, width]``, as stored.

        Raises:
            IndexError: there is no such position.
            DamagedShardError: a shard is not as its checksum, or was cut since the cache was
                opened.
        """
        if len(positions) and not (positions.min() >= 0 and positions.max() < self._images):
            raise IndexError(
                f"positions {positions.min()} to {positions.max()} were asked for; "
                f"{self._directory} has {self._images}."
            )
        features = torch.empty((len(positions), self.queries, self.width), dtype=self.dtype)
        target = features.view(torch.uint8).flatten(1).numpy()
        order = np.argsort(positions, kind="stable")
        numbers = np.searchsorted(self._starts, positions[order], side="right") - 1
        for number in np.unique(numbers).tolist():
            self._check_size(number)
            if number not in self._sound:
                self._require_checksum(self._paths[number])
                self._sound.add(number)
        rows = positions[order] - self._starts[numbers]
        for place, number, row in zip(order.tolist(), numbers.tolist(), rows.tolist(), strict=True):
            target[place] = self._rows[number][row]
        return features

    def _check_size(self, number: int) -> None:
        """Refuse a shard that was cut: the system kills who reads beyond the end of a file."""
        path = self._paths[number]
        require_outputs(path)
        if path.stat().st_size != self._sizes[number]:
            raise DamagedShardError(path, "its size has changed since it was opened")

    def _require_checksum(self, path: Path) -> None:
        if file_checksum(path) != self._checksums.get(path.name):
            raise DamagedShardError(path, f"not as its checksum in {METADATA_FILE}")
