"""Which images of a caption split are learned from, validated on, and captioned."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq


def split_images(splits: Path, split: str, images: int | None, seed: int) -> list[str]:
    """Image ids of a caption split, sorted; a seeded sample of ``images`` of them if given.

    A number beyond the split's size takes the whole split.
    """
    chosen = pc.field("caption_split") == split
    ids = sorted(
        pq.read_table(splits, columns=["image_id"], filters=chosen)["image_id"].to_pylist()
    )
    if images is None or images >= len(ids):
        return ids
    return sorted(random.Random(seed).sample(ids, images))


def images_of_splits(
    splits: Path, names: Iterable[str], images: int | None, seed: int
) -> list[str]:
    """Image ids of several caption splits, sorted; at most ``images`` of each, if given."""
    return sorted(
        image_id for name in set(names) for image_id in split_images(splits, name, images, seed)
    )
