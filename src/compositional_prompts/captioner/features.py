"""The frozen-feature cache: Q-Former output of every image, computed once, memory-mapped after.

``index.parquet`` (image_id, shard, row) says where an image's features are;
``features-00000.npy`` and so on hold float16 arrays ``[rows, queries, width]``. Equal to the whole
model in evaluation mode: in training mode transformers would switch on the frozen Q-Former's
dropout, which a cache leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from compositional_prompts.catalog.schema import FEATURE_INDEX
from compositional_prompts.catalog.tables import read_table, write_table
from compositional_prompts.outputs import atomic_directory

SHARD_BYTES = 64 * 2**20
INDEX_FILE = "index.parquet"


def _shard_name(number: int) -> str:
    return f"features-{number:05d}.npy"


def write_features(batches: Iterable[tuple[list[str], NDArray[np.float16]]], out: Path) -> int:
    """Write batches of (image_ids, float16 ``[n, queries, width]``) as shards; return the rows.

    Never more than one shard is in memory; ``out`` appears only when all are written.

    Raises:
        ValueError: there is no batch at all.
    """
    ids: list[str] = []
    shards: list[int] = []
    rows: list[int] = []
    pending: list[NDArray[np.float16]] = []
    shard = 0
    with atomic_directory(out) as directory:

        def flush() -> None:
            nonlocal shard
            np.save(directory / _shard_name(shard), np.concatenate(pending), allow_pickle=False)
            shard += 1
            pending.clear()

        for image_ids, features in batches:
            start = sum(len(part) for part in pending)
            ids += image_ids
            shards += [shard] * len(image_ids)
            rows += range(start, start + len(image_ids))
            pending.append(features)
            if sum(part.nbytes for part in pending) >= SHARD_BYTES:
                flush()
        if pending:
            flush()
        if not ids:
            raise ValueError("The catalog has no images to compute features of.")
        table = pa.table([ids, shards, rows], schema=FEATURE_INDEX)
        write_table(table, directory / INDEX_FILE, FEATURE_INDEX)
    return len(ids)


class FeatureStore:
    """Random access to the cached features; shards are memory-mapped, not read."""

    def __init__(self, directory: Path) -> None:
        """Open a cache.

        Raises:
            FileNotFoundError: the cache or one of its shards is missing.
        """
        index = read_table(directory / INDEX_FILE, FEATURE_INDEX)
        shards = index.column("shard").to_pylist()
        rows = index.column("row").to_pylist()
        ids = index.column("image_id").to_pylist()
        self._place = dict(zip(ids, zip(shards, rows, strict=True), strict=True))
        self._shards = [
            np.load(directory / _shard_name(number), mmap_mode="r", allow_pickle=False)
            for number in range(max(shards) + 1)
        ]

    def read(self, image_ids: Sequence[str]) -> Tensor:
        """Features of the given images, in their order: float32 ``[n, queries, width]``.

        Raises:
            KeyError: an image has no features.
        """
        missing = [image_id for image_id in image_ids if image_id not in self._place]
        if missing:
            raise KeyError(
                f"{len(missing)} images have no features, among them {missing[0]!r}: "
                "run `dvc repro blip2_features`."
            )
        features = np.empty((len(image_ids), *self._shards[0].shape[1:]), np.float16)
        for position, image_id in enumerate(image_ids):
            shard, row = self._place[image_id]
            features[position] = self._shards[shard][row]
        return torch.from_numpy(features).float()


class ImageInputs(Protocol):
    """What the captioner is fed from: cached query features, or pixels where there is no cache."""

    def positions(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Where the given images are, int64 ``[n]``; raises KeyError for an unknown one."""
        ...

    def read(self, positions: NDArray[np.int64]) -> Tensor:
        """Query features ``[n, queries, width]`` or pixel_values ``[n, 3, H, W]``, on the CPU."""
        ...
