"""The frozen half of BLIP-2 over a whole catalog, decoding overlapped with the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from compositional_prompts.captioner.batch_size import automatic_batch_size
from compositional_prompts.captioner.features.feature_store import (
    FeatureBatch,
    finished_shards,
    publish_shards,
    rows_per_shard,
    write_shards,
)
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.forward import query_features
from compositional_prompts.catalog.decoding import decoded_batches
from compositional_prompts.catalog.reading import count_rows
from compositional_prompts.compute.progress import progress
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.pipeline.section import BatchSize

LARGEST_AUTO = 256
"""The first batch that ``auto`` tries on a GPU: 65,000 vision tokens at full size keep any busy,
and the decoded images of the next batches must fit into memory too.
"""

BATCH_SIZE_FILE = "batch_size.json"


def compute_features(
    captioner: Captioner,
    catalog: Path,
    out: Path,
    *,
    dtype: torch.dtype,
    batch_size: BatchSize,
    workers: int,
    scratch: Path,
    shard_rows: int | None = None,
) -> int:
    """Run the frozen half over every image of ``catalog`` once; return the number of images.

    Shard by shard, each kept in ``scratch`` when it is full. A run that was killed skips those,
    and ends with the bytes of an undisturbed one: no batch is part of two shards, and the batch
    size that ``auto`` found is kept too.

    Args:
        captioner: the model, or its frozen half.
        catalog: ``data/catalog/``.
        out: the cache to write, whole or not at all.
        dtype: of the stored features; float32 stores them unrounded.
        batch_size: images at once, or ``auto``.
        workers: threads that decode.
        scratch: a folder that outlives a killed run, and is this run's alone.
        shard_rows: images a shard, a multiple of the batch size; by default about 64 MiB of them.

    Raises:
        ValueError: the catalog has no images.
        OverflowError: a feature is beyond ``dtype``, or not a number.
    """
    images = count_rows(catalog)
    if not images:
        raise ValueError(f"{catalog} has no images to compute features of.")
    if shard_rows is None:
        unit = LARGEST_AUTO if batch_size == "auto" else batch_size
        row_bytes = captioner.model.query_tokens[0].numel() * dtype.itemsize
        shard_rows = rows_per_shard(row_bytes, unit)
    size = _automatic(captioner, catalog, scratch) if batch_size == "auto" else batch_size
    done = finished_shards(scratch)
    rows = range(min(done * shard_rows, images), images)
    write_shards(
        _computed(captioner, catalog, rows, dtype=dtype, batch_size=size, workers=workers),
        scratch,
        shard_rows=shard_rows,
        first=done,
    )
    return publish_shards(scratch, out)


@torch.inference_mode()
def _frozen_half(captioner: Captioner, pixel_values: Tensor) -> Tensor:
    with captioner.autocast():
        return query_features(captioner.model, pixel_values.to(captioner.device))


def _computed(
    captioner: Captioner,
    catalog: Path,
    rows: range,
    *,
    dtype: torch.dtype,
    batch_size: int,
    workers: int,
) -> Iterator[FeatureBatch]:
    batches = decoded_batches(catalog, captioner.preprocess, batch_size, workers, rows)
    for image_ids, images in progress(batches, "batches of features", -(-len(rows) // batch_size)):
        features = _frozen_half(captioner, torch.stack(images)).to("cpu", dtype)
        finite = features.isfinite().flatten(1).all(1)
        if not finite.all():
            raise OverflowError(
                f"The features of image {image_ids[int(finite.int().argmin())]!r} are beyond "
                f"{dtype} or not numbers: set blip2_features.dtype to bfloat16, and "
                "blip2_features.precision to bfloat16 or float32."
            )
        yield image_ids, features


def _automatic(captioner: Captioner, catalog: Path, scratch: Path) -> int:
    """The batch size that this run found, or finds now."""
    record = scratch / BATCH_SIZE_FILE
    if record.is_file():
        return int(json.loads(record.read_text()))
    ((_, (image,)),) = decoded_batches(catalog, captioner.preprocess, 1, 1, range(1))
    size = automatic_batch_size(
        lambda images: _frozen_half(captioner, image.repeat(images, 1, 1, 1)),
        captioner.device,
        upper=LARGEST_AUTO,
    )
    with atomic_file(record) as temporary:
        temporary.write_text(json.dumps(size))
    return size
