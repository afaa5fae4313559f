"""The frozen half of BLIP-2 over a whole catalog: computed of new photos, taken from the row store
of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compositional_prompts.captioner.batch_size import automatic_batch_size
from compositional_prompts.captioner.features.feature_shards import (
    ShardImages,
    contents_digest,
    cut_shards,
    save_shard,
    write_cache,
)
from compositional_prompts.captioner.features.frozen_features import (
    FrozenFeatures,
    NamedPhoto,
    features_of,
)
from compositional_prompts.captioner.parameters import Blip2Features
from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.reading import iterate_ids
from compositional_prompts.compute.precision import DTYPES, ResolvedPrecision
from compositional_prompts.compute.rows.completed_rows import CompletedRows, complete_rows
from compositional_prompts.compute.rows.computation import Item, kernel_batch
from compositional_prompts.files.scratch import link_or_copy
from compositional_prompts.pipeline.section import Base

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

LARGEST_AUTO = 256
"""The first batch that ``auto`` tries on a GPU: 65,000 vision tokens at full size keep any busy,
and the decoded images of the next batches must fit into memory too.
"""


def frozen_features(
    blip2: Path, params: Blip2Features, device: torch.device, precision: ResolvedPrecision
) -> FrozenFeatures:
    """The computation that ``blip2_features`` asks for.

    Args:
        blip2: the model's folder.
        params: the section ``blip2_features``.
        device: where to compute.
        precision: what to compute in.

    Raises:
        FileNotFoundError, ValueError: the folder is not a BLIP-2's.
        MemoryError: not even one photo fits into a GPU's memory.
    """
    largest = FrozenFeatures(blip2, device.type, precision, params.dtype, LARGEST_AUTO)
    wanted = (
        automatic_batch_size(largest, largest.start, device, upper=LARGEST_AUTO)
        if params.batch_size == "auto"
        else params.batch_size
    )
    return replace(largest, batch_size=kernel_batch(device.type, wanted))


def extract_features(
    computation: FrozenFeatures, catalog: Path, out: Path, base: Base
) -> tuple[int, int]:
    """Write the features of every image of ``catalog``.

    A shard that the row store has as a file is linked; any other is written, and becomes a file of
    the store, which then keeps its rows nowhere else.

    Args:
        computation: what makes them.
        catalog: ``data/catalog/``.
        out: the cache to write, whole or not at all.
        base: where the row store is, and the engine.

    Returns:
        The numbers of images, and of features that were computed now.

    Raises:
        ValueError: the catalog has no images.
        OverflowError: a feature is beyond the dtype, or not a number.
    """
    photos = _NamedPhotos(catalog)
    if not len(photos.keys):
        raise ValueError(f"{catalog} has no images to compute features of.")
    with complete_rows(computation, photos, base) as rows:
        row_bytes = rows.stored.read(rows.keys[:1]).dtype.itemsize
        ids = (image_id for part in iterate_ids(catalog) for image_id in part.to_pylist())
        images = write_cache(
            cut_shards(ids, photos.keys.tolist(), row_bytes),
            _shard_writer(rows, DTYPES[computation.dtype], out),
            out,
            computation=computation.identity(),
            contents=contents_digest(photos.keys),
        )
    return images, rows.computed


def _shard_writer(
    rows: CompletedRows, dtype: torch.dtype, out: Path
) -> Callable[[ShardImages, Path], None]:
    def write_shard(shard: ShardImages, path: Path) -> None:
        keys = rows.keys[shard.rows.start : shard.rows.stop]
        known = rows.stored.file_of(keys)
        if known is not None:
            link_or_copy(known, path)
            return
        values = rows.stored.read(keys)
        save_shard(features_of(values, dtype), path)
        # Behind safetensors' header the features lie as they do in rows.
        offset = path.stat().st_size - values.nbytes
        rows.stored.adopt(path, keys, values.dtype, offset, out / path.name)

    return write_shard


class _NamedPhotos:
    """The catalog's photos, each with its name."""

    def __init__(self, catalog: Path) -> None:
        self._photos = CatalogPhotos(catalog)

    @property
    def keys(self) -> NDArray[np.void]:
        return self._photos.keys

    def items(self, positions: NDArray[np.int64]) -> Iterator[Item]:
        for item in self._photos.items(positions):
            yield item._replace(value=NamedPhoto(item.name, item.value))
