"""Decoded and resized images of a data set, held once for all epochs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compositional_prompts.batching import decoded_batches
from compositional_prompts.clip.loading import Clip

MEMORY_BYTES = 4 * 1024**3
"""Larger caches lie in an unlinked file instead, from which the system pages them in."""

DECODE_BATCH = 256
"""Images decoded at once."""

log = logging.getLogger(__name__)


def _allocate(shape: tuple[int, ...], scratch: Path) -> Tensor:
    if prod(shape) <= MEMORY_BYTES:
        return torch.empty(shape, dtype=torch.uint8)
    log.info("%.1f GiB of pixels are kept in a file under %s", prod(shape) / 1024**3, scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    # The file has no name: whatever ends the run, its space is given back.
    with tempfile.TemporaryFile(dir=scratch) as file:
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))


class Normalizer:
    """Pixels 0..255 to CLIP's pixel_values and back."""

    def __init__(self, clip: Clip, device: torch.device) -> None:
        self.mean = torch.tensor(clip.mean, device=device).reshape(-1, 1, 1) * 255
        self.std = torch.tensor(clip.std, device=device).reshape(-1, 1, 1) * 255

    def to_pixel_values(self, pixels: Tensor) -> Tensor:
        """``[..., 3, size, size]`` in 0..255 to float32 pixel_values."""
        return (pixels.to(torch.float32) - self.mean) / self.std

    def to_pixels(self, pixel_values: Tensor) -> Tensor:
        """The inverse, rounded to uint8: exact for what :attr:`Clip.preprocess` returns."""
        return (pixel_values * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)


def decode_pixels(
    catalog: Path, clip: Clip, image_ids: Sequence[str], workers: int, scratch: Path
) -> Tensor:
    """Decode, resize and crop images as CLIP's preprocessing does, without normalising them.

    Args:
        catalog: the catalog; it is streamed once.
        clip: whose preprocessing is used.
        image_ids: which images.
        workers: decoding threads.
        scratch: a directory for a cache that is larger than :data:`MEMORY_BYTES`.

    Returns:
        Pixels 0..255 in the order of ``image_ids``, uint8 ``[images, 3, size, size]``.

    Raises:
        ValueError: an image is not in the catalog.
    """
    position = {image_id: row for row, image_id in enumerate(image_ids)}
    pixels = _allocate((len(image_ids), 3, clip.image_size, clip.image_size), scratch)
    normalizer = Normalizer(clip, torch.device("cpu"))

    def decode(image: Image.Image) -> Tensor:
        return normalizer.to_pixels(clip.preprocess(image))

    found = 0
    for batch_ids, images in decoded_batches(catalog, decode, DECODE_BATCH, workers):
        wanted = [row for row, image_id in enumerate(batch_ids) if image_id in position]
        if wanted:
            rows = [position.pop(batch_ids[row]) for row in wanted]
            pixels[rows] = images[wanted]
            found += len(wanted)
    if found != len(image_ids):
        raise ValueError(
            f"{catalog} does not hold {len(image_ids) - found} labelled images, among them "
            f"{next(iter(position))!r}: run `dvc repro split`."
        )
    return pixels
