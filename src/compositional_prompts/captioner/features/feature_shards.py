"""Writing the frozen-feature cache: which images a shard holds, and the files around the shards.

Shards are cut by what their images are (:class:`ContentCuts`), so that a grown catalog leaves most
of them the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from compositional_prompts.captioner.features.feature_store import (
    FEATURE_INDEX,
    INDEX_FILE,
    METADATA_FILE,
    TENSOR,
    FeatureBatch,
    map_shard,
    shard_name,
)
from compositional_prompts.files.content_cuts import ContentCuts
from compositional_prompts.files.digests import file_checksum
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.files.tables import parquet_writer
from compositional_prompts.files.tensors.finite_numbers import require_finite_values

SHARD_BYTES = 64 * 2**20
"""No shard holds more of features."""


class ShardImages(NamedTuple):
    """The images of a shard: their ids, and which rows of the whole cache they are."""

    image_ids: list[str]
    rows: range


def cut_shards(
    image_ids: Iterable[str], contents: Iterable[bytes], row_bytes: int
) -> Iterator[ShardImages]:
    """Cut a stream of images into shards.

    Args:
        image_ids: of all images.
        contents: the digest of each; where there are more of them, the rest is not looked at.
        row_bytes: what the features of one take.
    """
    cuts = ContentCuts(SHARD_BYTES)
    ids: list[str] = []
    first = 0
    for image_id, content in zip(image_ids, contents, strict=False):
        if cuts.starts(content + image_id.encode(), row_bytes) and ids:
            yield ShardImages(ids, range(first, first + len(ids)))
            first += len(ids)
            ids = []
        ids.append(image_id)
    if ids:
        yield ShardImages(ids, range(first, first + len(ids)))


def contents_digest(contents: NDArray[np.void]) -> str:
    """Of the contents of a catalog's images in its order, ``V16 [n]``: 32 hexadecimal digits."""
    return hashlib.blake2b(contents.tobytes(), digest_size=16).hexdigest()


def save_shard(features: torch.Tensor, path: Path) -> None:
    """Write features ``[n, queries, width]`` as one shard."""
    path.touch()
    mode = path.stat().st_mode
    save_file({TENSOR: features}, path)
    path.chmod(mode)  # safetensors lets nobody else read it


def write_cache(
    shards: Iterable[ShardImages],
    write_shard: Callable[[ShardImages, Path], object],
    out: Path,
    *,
    computation: str,
    contents: str,
) -> int:
    """Write a cache; it appears whole or not at all.

    Args:
        shards: which images each shard holds; at least one shard.
        write_shard: writes the features of a shard's images to a path.
        out: ``data/features/``.
        computation: what made the features, an identity.
        contents: :func:`contents_digest` of the images.

    Returns:
        The number of images.
    """
    with atomic_directory(out) as directory:
        images = 0
        with parquet_writer(
            directory / INDEX_FILE, FEATURE_INDEX, use_content_defined_chunking=True
        ) as index:
            for number, shard in enumerate(shards):
                write_shard(shard, directory / shard_name(number))
                rows = len(shard.image_ids)
                columns = [shard.image_ids, [number] * rows, range(rows)]
                index.write_table(pa.table(columns, schema=FEATURE_INDEX))
                images += rows
        features = map_shard(directory / shard_name(0))
        _, queries, width = features.shape
        metadata: dict[str, Any] = {
            "cache": True,
            "dtype": str(features.dtype).removeprefix("torch."),
            "queries": queries,
            "width": width,
            "images": images,
            "computation": computation,
            "contents": contents,
            "checksums": {
                name: file_checksum(directory / name)
                for name in (*map(shard_name, range(number + 1)), INDEX_FILE)
            },
        }
        (directory / METADATA_FILE).write_text(json.dumps(metadata, indent=2) + "\n")
    return images


def write_features(
    batches: Iterable[FeatureBatch],
    out: Path,
    *,
    computation: str = "given",
    contents: str = "",
) -> int:
    """Write a cache in a stream, of features from wherever; return the number of images.

    Memory holds one shard.

    Args:
        batches: image_ids and features on the CPU, of one shape and dtype.
        out: ``data/features/``.
        computation: what made them.
        contents: :func:`contents_digest` of the images.

    Raises:
        ValueError: there is no batch at all, or a number is not finite.
    """
    stream = iter(batches)
    head = next(stream, None)
    if head is None:
        raise ValueError("There are no features to write.")
    waiting: deque[torch.Tensor] = deque()

    def image_ids() -> Iterator[str]:
        for ids, features in chain([head], stream):
            require_finite_values("features to keep", features)
            for image_id, row in zip(ids, features, strict=True):
                waiting.append(row)
                yield image_id

    return write_cache(
        cut_shards(image_ids(), repeat(b""), head[1][0].numel() * head[1].element_size()),
        lambda shard, path: save_shard(
            torch.stack([waiting.popleft() for _ in shard.image_ids]), path
        ),
        out,
        computation=computation,
        contents=contents,
    )


def write_uncached(out: Path) -> None:
    """Write a ``data/features/`` that says that there is no cache."""
    with atomic_directory(out) as directory:
        (directory / METADATA_FILE).write_text(json.dumps({"cache": False}, indent=2) + "\n")
