"""Which images of a caption split are learned from, validated on, and captioned."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.files.tables import read_columns


def split_images(splits: Path, split: str, images: int | None, seed: int) -> pa.StringArray:
    """Image ids of a caption split, sorted; a seeded sample of ``images`` of them if given.

    A number beyond the split's size takes the whole split. They are Arrow's, since a Python string
    of each of a million would take three times the memory.
    """
    chosen = pc.field("caption_split") == split
    column = read_columns(splits, ["image_id"], chosen)["image_id"]
    ids = _sorted(column.cast(pa.string()).combine_chunks())
    if images is None or images >= len(ids):
        return ids
    return ids.take(pa.array(sorted(random.Random(seed).sample(range(len(ids)), images))))


def images_of_splits(
    splits: Path, names: Iterable[str], images: int | None, seed: int
) -> pa.StringArray:
    """Image ids of several caption splits, sorted; at most ``images`` of each, if given."""
    parts = [split_images(splits, name, images, seed) for name in sorted(set(names))]
    return _sorted(pa.concat_arrays([pa.array([], pa.string()), *parts]))


def _sorted(ids: pa.StringArray) -> pa.StringArray:
    # By their bytes, which in UTF-8 is by code points, as Python sorts them.
    return ids.take(pc.array_sort_indices(ids))
