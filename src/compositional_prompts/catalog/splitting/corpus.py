"""Taking the pretraining corpus from a catalog: training images with their titles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.catalog.splitting.corpus_table import BATCH_ROWS, CORPUS
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.files.tables import photo_writer


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
