"""The table of the pretraining corpus: images with their titles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from compositional_prompts.files.tables import IMAGE, iterate_table, required, with_image_feature

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
