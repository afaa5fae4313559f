"""Reading tables of L2-normalised CLIP vectors, checked and a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.table_shards import iterate_shards, shard_files
from compositional_prompts.files.tables import SchemaError, required


def image_embeddings(dimension: int) -> pa.Schema:
    """``data/embeddings/images/``: L2-normalised CLIP vectors, float32 ``[dimension]``.

    In the catalog's order, in shards that are cut by image_id.
    """
    return pa.schema(
        [
            required("image_id", pa.string()),
            required("embedding", pa.list_(pa.float32(), dimension)),
        ]
    )


def word_embeddings(dimension: int) -> pa.Schema:
    """``data/embeddings/words.parquet``: one L2-normalised vector a word of an attribute group."""
    return pa.schema(
        [
            required("group", pa.string()),
            required("word", pa.string()),
            required("embedding", pa.list_(pa.float32(), dimension)),
        ]
    )


ROWS = 4096
"""Rows read at a time: 12 MiB of vectors of 768 numbers."""
LENGTH_TOLERANCE = 1e-2
"""How far a vector's length may be from 1: half-precision vectors are off by a thousandth."""


def embedding_dimension(path: Path) -> int:
    """Return the width of the vectors in a Parquet file.

    Raises:
        MissingOutputError: the file is not there.
        SchemaError: it has no column ``embedding`` of fixed-size lists.
    """
    require_outputs(path)
    columns = pq.read_schema(path)
    position = columns.get_field_index("embedding")
    if position < 0 or not pa.types.is_fixed_size_list(columns.field(position).type):
        raise SchemaError(
            f"{path}: expected a column 'embedding' of fixed-size lists of float32, "
            f"found {', '.join(f'{field.name}: {field.type}' for field in columns)}.",
            path,
        )
    return int(columns.field(position).type.list_size)


def unit_vectors(
    column: pa.FixedSizeListArray, names: Sequence[str], path: Path
) -> NDArray[np.float32]:
    """Return a column of vectors as float32 ``[rows, dimension]``.

    Args:
        column: the vectors, ``fixed_size_list<float32>``.
        names: what to call each row in an error.
        path: where they come from, for the error.

    Raises:
        ValueError: a vector is not finite, or not of unit length, naming the first.
    """
    flat = column.flatten().to_numpy(zero_copy_only=False)
    vectors: NDArray[np.float32] = flat.reshape(len(column), column.type.list_size)
    # A NaN fails every comparison, so that this finds it too.
    bad = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) <= LENGTH_TOLERANCE)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{path}: the vector of {names[row]!r} has length {np.linalg.norm(vectors[row]):.4g}, "
            "expected 1; run clip_embed again."
        )
    return vectors


def iterate_image_vectors(
    path: Path, rows: int = ROWS
) -> Iterator[tuple[pa.StringArray, NDArray[np.float32]]]:
    """Stream ``data/embeddings/images/``, at most ``rows`` rows at a time.

    Yields:
        image_id, string ``[n]``, and the vectors, L2-normalised float32 ``[n, dimension]``.

    Raises:
        MissingOutputError: the folder is not there.
        DamagedOutputError: it holds no shard.
        SchemaError: a column is not as declared.
        ValueError: as :func:`unit_vectors`.
    """
    expected = image_embeddings(embedding_dimension(shard_files(path)[0]))
    for batch in iterate_shards(path, expected, rows):
        ids = batch.column("image_id")
        yield ids, unit_vectors(batch.column("embedding"), ids.to_pylist(), path)
