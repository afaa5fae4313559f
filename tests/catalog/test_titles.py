"""Titles as what a captioner learns: which images have one, and which are drawn."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from compositional_prompts.captioner.training.caption_batches import CaptionPairs
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.titles import read_titles, untitled_images
from compositional_prompts.files.tables import write_table


def test_images_without_a_title_are_left_out_and_counted(tmp_path: Path) -> None:
    titles = ["red  shoes\n", None, " ", "a hat", "boots", "a coat"]
    sides = ["train", "train", "train", "train", "val", "test"]
    with open_shards(tmp_path / "catalog", 1) as shards:
        for n, title in enumerate(titles):
            shards.write(CatalogRow(f"i{n}", f"p{n}", b"photo", f"{n}.jpg", title=title))
    rows = [
        {"image_id": f"i{n}", "product_id": f"p{n}", "caption_split": side}
        for n, side in enumerate(sides)
    ]
    splits = tmp_path / "splits.parquet"
    write_table(pa.Table.from_pylist(rows, SPLITS), splits, SPLITS)
    found = read_titles(tmp_path / "catalog")
    assert found == {"i0": "red shoes", "i3": "a hat", "i4": "boots", "i5": "a coat"}
    assert untitled_images(tmp_path / "catalog", splits) == {"train": 2, "val": 0, "test": 0}
    pairs = CaptionPairs.titled(splits, found, "train", None, 7)
    assert (pairs.image_ids, pairs.captions) == (["i0", "i3"], ["red shoes", "a hat"])
    # A sample is one of images that have a title, and never of fewer.
    assert len(CaptionPairs.titled(splits, found, "train", 1, 7).image_ids) == 1
    assert CaptionPairs.titled(splits, {}, "val", None, 7).image_ids == []
