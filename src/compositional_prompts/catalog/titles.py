"""Titles of images: what people call a product, or wrote of a photo."""

from __future__ import annotations

from pathlib import Path

from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.files.tables import read_columns

_ROWS_AT_ONCE = 65_536


def tidy_title(title: str | None) -> str | None:
    """A title in one line, with one space for all that stands between words; None for a blank."""
    return " ".join((title or "").split()) or None


def read_titles(catalog: Path) -> dict[str, str]:
    """By image_id, the titles of the images that have one. Memory holds them.

    Args:
        catalog: ``data/catalog/``.
    """
    titles = {}
    for batch in iterate_batches(catalog, ["image_id", "title"], batch_size=_ROWS_AT_ONCE):
        columns = (batch.column(name).to_pylist() for name in ("image_id", "title"))
        for image_id, title in zip(*columns, strict=True):
            if (tidy := tidy_title(title)) is not None:
                titles[image_id] = tidy
    return titles


def untitled_images(catalog: Path, splits: Path) -> dict[str, int]:
    """How many images of each caption split have no title."""
    titles = read_titles(catalog)
    table = read_columns(splits, ["image_id", "caption_split"]).to_pydict()
    counts = dict.fromkeys(("train", "val", "test"), 0)
    for image_id, split in zip(table["image_id"], table["caption_split"], strict=True):
        counts[split] += image_id not in titles
    return counts
