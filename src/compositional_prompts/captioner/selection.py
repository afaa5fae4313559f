"""Which images are learned from, validated on, and captioned."""

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


def prompts_of(prompts: Path, image_ids: list[str]) -> list[str]:
    """The enhanced prompts of the given images, in their order.

    Raises:
        KeyError: an image has none.
    """
    table = pl.read_parquet(prompts, columns=["image_id", "enhanced_prompt"])
    by_id = dict(zip(table["image_id"], table["enhanced_prompt"], strict=True))
    missing = [image_id for image_id in image_ids if image_id not in by_id]
    if missing:
        raise KeyError(
            f"{prompts}: {len(missing)} images have no enhanced prompt, among them "
            f"{missing[0]!r}: run `dvc repro enhance`."
        )
    return [by_id[image_id] for image_id in image_ids]
