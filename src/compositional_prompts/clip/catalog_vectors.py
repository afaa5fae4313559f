"""The vectors that the enhancement compares: every image's, and every attribute word's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.clip.clip_digest import (
    CLIP_LIBRARIES,
    image_digest,
    tower_libraries,
)
from compositional_prompts.clip.embedding import embed_images, embed_texts
from compositional_prompts.clip.open_clip_model import Clip, load_clip
from compositional_prompts.clip.vector_tables import image_embeddings, word_embeddings
from compositional_prompts.compute.rows.completed_rows import ROWS_AT_ONCE, complete_rows
from compositional_prompts.compute.rows.computation import Computation
from compositional_prompts.files.table_shards import open_table_shards
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.section import Base

LARGEST_SHARD = 8 * 2**20
"""Bytes of a shard of vectors: 1,024 of 512 numbers are in one of mean size."""


@dataclass(frozen=True)
class ClipVectors(Computation):
    """Rows of one field, ``vector``: L2-normalised float32 ``[d]``, of an encoded photo.

    Attributes:
        clip: the model's folder.
        device: the type of a torch device.
        batch_size: photos at once.
    """

    name: ClassVar[str] = "clip_vector"
    libraries: ClassVar[Sequence[str]] = CLIP_LIBRARIES

    clip: Path
    device: str
    batch_size: int

    def further_libraries(self) -> Sequence[str]:
        return tower_libraries(self.clip)

    def settings(self) -> Mapping[str, Any]:
        return {
            "clip": image_digest(self.clip),
            "device": self.device,
        }

    def start(self) -> _VectorWorker:
        return _VectorWorker(load_clip(self.clip, torch.device(self.device)))


class _VectorWorker:
    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def prepare(self, value: bytes) -> Tensor:
        return self._clip.preprocess(decode_rgb(value))

    def compute(self, prepared: Sequence[Tensor]) -> NDArray[Any]:
        vectors = embed_images(self._clip, torch.stack(list(prepared))).numpy()
        return vectors.view([("vector", np.float32, vectors.shape[1])])[:, 0]


def embed_catalog(
    computation: ClipVectors, catalog: Path, out: Path, base: Base
) -> tuple[int, int]:
    """Write the vector of every image of ``catalog`` to the folder ``out``.

    Returns:
        The numbers of images, and of vectors that were computed now.

    Raises:
        ValueError: the catalog has no image.
    """
    photos = CatalogPhotos(catalog)
    if not len(photos.keys):
        raise ValueError(f"{catalog} has no images to embed.")
    with (
        complete_rows(computation, photos, base) as rows,
        open_table_shards(out, LARGEST_SHARD) as shards,
    ):
        images = iterate_batches(catalog, ["image_id"], batch_size=ROWS_AT_ONCE)
        for ids, batch in zip(images, rows.batches(ROWS_AT_ONCE), strict=True):
            vectors = batch["vector"]
            flat = pa.array(vectors.reshape(-1))
            embedding = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            image_ids = ids.column("image_id")
            shards.write(
                pa.record_batch([image_ids, embedding], schema=image_embeddings(vectors.shape[1])),
                image_ids.to_pylist(),
                vectors.shape[1] * vectors.itemsize,
            )
    return len(rows), rows.computed


def embed_words(
    clip: Clip, attributes: Mapping[str, Sequence[str]], template: str, out: Path
) -> None:
    """Write the vector of every word of every attribute group, in the vocabulary's order.

    Args:
        clip: the model.
        attributes: words by group, such as ``{"color": ["black", "white"]}``.
        template: holds ``{}`` where the word goes; ``{}`` alone embeds the bare word.
        out: table to write.
    """
    pairs = [(group, word) for group, words in attributes.items() for word in words]
    texts = [template.replace("{}", word) for _, word in pairs]
    vectors = embed_texts(clip, texts, batch_size=len(texts)).numpy()
    schema = word_embeddings(vectors.shape[1])
    table = pa.table(
        [
            pa.array([group for group, _ in pairs]),
            pa.array([word for _, word in pairs]),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        ],
        schema=schema,
    )
    write_table(table, out, schema)
