"""Equal photos of different products, which may stand on both sides of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES

_ROWS_AT_ONCE = 65_536


def contents_across_splits(catalog: Path, splits: pa.Table) -> int:
    """The number of photos, each counted once, that lie in more than one caption split.

    Args:
        catalog: ``data/catalog/``.
        splits: SPLITS of that catalog, in its order.
    """
    parts = [np.empty(0, np.uint64)]
    for batch in iterate_batches(catalog, ["content"], batch_size=_ROWS_AT_ONCE):
        column = batch.column("content")
        # Of the digest's 16 bytes the first 8: two of a million are alike by chance in 1 of 10^7.
        numbers = np.frombuffer(column.buffers()[1], np.uint64)[::2]
        parts.append(numbers[column.offset : column.offset + len(column)].copy())
    contents = np.concatenate(parts)
    del parts
    names = pa.array(SPLIT_NAMES)
    sides = np.concatenate(
        [np.empty(0, np.int8)]
        + [
            pc.index_in(chunk, names).to_numpy().astype(np.int8)
            for chunk in splits["caption_split"].chunks
        ]
    )
    if not len(contents):
        return 0
    order = np.argsort(contents)
    contents, sides = contents[order], sides[order]
    first = np.flatnonzero(np.append(True, contents[1:] != contents[:-1]))
    lowest, highest = np.minimum.reduceat(sides, first), np.maximum.reduceat(sides, first)
    return int((lowest < highest).sum())
