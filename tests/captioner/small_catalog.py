"""Catalogs of random pictures for tests of the captioner."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.files.content_cuts import ContentCuts


def picture(generator: np.random.Generator, height: int = 20, width: int = 24) -> Image.Image:
    """A few large random rectangles, so that neither JPEG nor resizing makes all alike."""
    small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


def write_catalog(directory: Path, images: int, seed: int = 0) -> dict[str, bytes]:
    """Write a catalog of shards of many small row groups; the encoded images by image_id."""
    generator = np.random.default_rng(seed)
    encoded = {}
    for number in range(images):
        buffer = io.BytesIO()
        picture(generator).save(buffer, "PNG")
        encoded[f"image-{number:04d}.png"] = buffer.getvalue()
    with open_shards(directory, 1) as writer:
        writer._group_bytes = 2048  # a row group a few pictures
        writer._cuts = ContentCuts(30_000)
        for image_id, image in encoded.items():
            writer.write(CatalogRow(image_id, image_id, image, image_id))
    return encoded
