"""The pretraining corpus of a catalog: training images with their titles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.catalog.schema import with_image_feature
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.files.tables import IMAGE, iterate_table, photo_writer, required

CORPUS = with_image_feature(pa.schema([pa.field("image", IMAGE), required("caption", pa.string())]))
"""``data/corpus.parquet``: images of the training split with their titles, for pretraining."""

# Also the row group of the file: images of any size fit in memory by so many.
BATCH_ROWS: Final = 64


def iterate_corpus(path: Path) -> Iterator[tuple[bytes, str]]:
    """Stream the encoded images and captions of ``data/corpus.parquet``.

    Raises:
        MissingOutputError: the table is missing.
        SchemaError: its columns are not those of :data:`CORPUS`.
    """
    for batch in iterate_table(path, CORPUS, BATCH_ROWS):
        images = batch.column("image").field("bytes").to_pylist()
        yield from zip(images, batch.column("caption").to_pylist(), strict=True)


def write_corpus(catalog: Path, splits: pa.Table, path: Path) -> int:
    """Write every image that both splits train on, with its title as the caption.

    Images without a title are left out; so is every image that is in val or test of either split.
    A valid file without rows comes out where no image qualifies. Streams: memory holds a batch of
    images and the training image_ids.

    Args:
        catalog: ``data/catalog/``.
        splits: SPLITS of that catalog.
        path: the Parquet file (CORPUS) to write, whole or not at all.

    Returns:
        The number of images written.
    """
    training = pc.and_(
        pc.equal(splits["caption_split"], "train"),
        pc.fill_null(pc.equal(splits["pair_split"], "train"), True),
    )
    image_ids = set(splits.filter(training)["image_id"].to_pylist())
    rows = 0
    with atomic_file(path) as temporary, photo_writer(temporary, CORPUS) as file:
        for batch in _titled(catalog, image_ids):
            file.write_batch(batch)
            rows += batch.num_rows
    return rows


def write_empty_corpus(path: Path) -> None:
    """Write a valid corpus without rows: pretraining is not to use the catalog."""
    with atomic_file(path) as temporary, photo_writer(temporary, CORPUS):
        pass


def _titled(catalog: Path, image_ids: set[str]) -> Iterator[pa.RecordBatch]:
    columns = ["image_id", "image", "title"]
    for batch in iterate_batches(catalog, columns, batch_size=BATCH_ROWS):
        named = zip(batch["image_id"].to_pylist(), batch["title"].to_pylist(), strict=True)
        kept = batch.filter(
            pa.array([bool(title) and image_id in image_ids for image_id, title in named])
        )
        if kept.num_rows:
            yield pa.RecordBatch.from_arrays([kept["image"], kept["title"]], schema=CORPUS)
