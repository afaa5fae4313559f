"""Which images of a caption split are learned from, validated on, and captioned."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl


def split_images(splits: Path, split: str, images: int | None, seed: int) -> list[str]:
    """Image ids of a caption split, sorted; a seeded sample of ``images`` of them if given.

    A number beyond the split's size takes the whole split.
    """
    ids = (
        pl.scan_parquet(splits)
        .filter(pl.col("caption_split") == split)
        .select("image_id")
        .collect()["image_id"]
        .sort()
        .to_list()
    )
    if images is None or images >= len(ids):
        return ids
    return sorted(random.Random(seed).sample(ids, images))
