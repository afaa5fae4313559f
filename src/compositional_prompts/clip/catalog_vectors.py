"""The vectors that the enhancement compares: every image's, and every attribute word's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from compositional_prompts.catalog.decoding import decoded_batches
from compositional_prompts.catalog.reading import count_rows
from compositional_prompts.clip.embedding import embed_images, embed_texts
from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.clip.vector_tables import image_embeddings, word_embeddings
from compositional_prompts.compute.progress import progress
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.files.tables import write_table


def embed_catalog(clip: Clip, catalog: Path, out: Path, *, batch_size: int, workers: int) -> int:
    """Write the vector of every image of ``catalog`` to ``out``, a batch at a time.

    Returns:
        The number of images.

    Raises:
        ValueError: the catalog has no image.
    """
    total = count_rows(catalog)
    if not total:
        raise ValueError(f"{catalog} has no images to embed.")
    rows = 0
    writer: pq.ParquetWriter | None = None
    batches = decoded_batches(catalog, clip.preprocess, batch_size, workers)
    with atomic_file(out) as temporary:
        try:
            for image_ids, images in progress(
                batches, "batches of vectors", -(-total // batch_size)
            ):
                vectors = embed_images(clip, torch.stack(images)).numpy()
                schema = image_embeddings(vectors.shape[1])
                if writer is None:
                    writer = pq.ParquetWriter(temporary, schema, compression="zstd")
                flat = pa.array(vectors.reshape(-1))
                embedding = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
                writer.write_batch(pa.record_batch([pa.array(image_ids), embedding], schema=schema))
                rows += len(image_ids)
        finally:
            if writer is not None:
                writer.close()
    return rows


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
