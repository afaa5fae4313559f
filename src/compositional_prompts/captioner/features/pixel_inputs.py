"""Inputs without a cache: images are decoded, augmented and preprocessed when they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from compositional_prompts.catalog.image_join import image_rows
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.random_access import CatalogImages
from compositional_prompts.catalog.reading import iterate_ids
from compositional_prompts.files.outputs import naming

FLIP_PROBABILITY = 0.5
CROP_AREA = (0.5, 1.0)
"""Share of the image that a crop keeps, as BLIP-2's own training transform (LAVIS,
``blip_image_train``).
"""

CROP_RATIO = (3 / 4, 4 / 3)
"""Width to height of a crop; the default of torchvision's RandomResizedCrop."""

CROP_ATTEMPTS = 10


def random_crop(
    height: int, width: int, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, drawn as torchvision's RandomResizedCrop does.

    Its own draws come from torch's global generator, which threads cannot use and resume alike.
    """
    for _ in range(CROP_ATTEMPTS):
        area = height * width * generator.uniform(*CROP_AREA)
        ratio = math.exp(generator.uniform(*np.log(CROP_RATIO)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.integers(height - crop_height + 1))
            left = int(generator.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    # An image too long or too high for any: as much of its middle as the ratios allow.
    crop_width = min(width, max(1, round(height * CROP_RATIO[1])))
    crop_height = min(height, max(1, round(width / CROP_RATIO[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def augmented(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A random crop of an RGB image, flipped from left to right every other time.

    It is not resized: preprocessing brings every image to the model's size, in one resampling.
    """
    cropped: Image.Image = transforms.crop(
        image, *random_crop(image.height, image.width, generator)
    )
    if generator.random() < FLIP_PROBABILITY:
        cropped = transforms.horizontal_flip(cropped)
    return cropped


class PixelInputs:
    """Pixels of the catalog's images, the :class:`ImageInputs` of a run without a cache.

    Positions are rows of the catalog. How images are reached at random, and what that costs,
    says :class:`CatalogImages`; decoding and resizing run in threads. Safe to use from several
    threads.
    """

    def __init__(
        self,
        catalog: Path,
        preprocess: Callable[[Image.Image], Tensor],
        *,
        workers: int,
        augment: bool,
        seed: int,
    ) -> None:
        """Open ``data/catalog/``.

        Args:
            catalog: its directory.
            preprocess: an RGB image to pixel_values ``[3, H, W]``.
            workers: threads that decode.
            augment: whether every image is cropped and flipped at random, alike for the same
                seed, epoch and position, whatever was read before.
            seed: of augmentation.
        """
        self._catalog = catalog
        self._images = CatalogImages(catalog)
        self._preprocess = preprocess
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="pixels")
        self._augment = augment
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._images)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch augmented images are drawn for; set it before the first read of one."""
        self._epoch = epoch

    def positions(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Where the given images are, int64 ``[n]``. Reads all names: ask for many at once.

        Raises:
            ImageJoinError: an image is not in the catalog.
        """
        return image_rows(image_ids, iterate_ids(self._catalog), table=self._catalog)

    def read(self, positions: NDArray[np.int64]) -> Tensor:
        """pixel_values at the given positions, in their order: float32 ``[n, 3, H, W]``, n >= 1.

        Raises:
            IndexError: there is no such position.
        """
        epoch = self._epoch

        def load(position: int, encoded: bytes) -> Tensor:
            with naming(f"image {position} of {self._catalog}"):
                image = decode_rgb(encoded)
            if self._augment:
                image = augmented(image, np.random.default_rng((self._seed, epoch, position)))
            return self._preprocess(image)

        return torch.stack(
            list(self._pool.map(load, positions.tolist(), self._images.read(positions)))
        )
