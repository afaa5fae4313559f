"""Equal photos of different products, which may stand on both sides of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES

_ROWS_AT_ONCE: Final = 65_536
_SIDE_BITS: Final = 2


def contents_across_splits(catalog: Path, splits: pa.Table) -> int:
    """The number of photos, each counted once, that lie in more than one caption split.

    Args:
        catalog: ``data/catalog/``.
        splits: SPLITS of that catalog, in its order.
    """
    # A number a photo: of its digest's 16 bytes 62 bits, by which two of a million are alike by
    # chance once in nine million catalogs, and its split. Sorted in place, equal photos follow one
    # another by their splits.
    numbers = np.empty(splits.num_rows, np.uint64)
    done = 0
    for batch in iterate_batches(catalog, ["content"], batch_size=_ROWS_AT_ONCE):
        column = batch.column("content")
        digests = np.frombuffer(column.buffers()[1], np.uint64)[::2]
        numbers[done : done + len(column)] = digests[column.offset : column.offset + len(column)]
        done += len(column)
    numbers <<= _SIDE_BITS
    names, done = pa.array(SPLIT_NAMES), 0
    for chunk in splits["caption_split"].chunks:
        numbers[done : done + len(chunk)] |= pc.index_in(chunk, names).to_numpy().astype(np.uint64)
        done += len(chunk)
    numbers.sort()
    # Neighbours that differ in the split alone.
    unlike = numbers[1:] ^ numbers[:-1]
    crossing = (unlike > 0) & (unlike < 2**_SIDE_BITS)
    return len(np.unique(numbers[1:][crossing] >> _SIDE_BITS))
