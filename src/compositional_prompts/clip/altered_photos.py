"""The same photograph as other programs leave it: saved again, smaller and back, cropped.

What a photo is called should not hang on that. Models are trained on such copies
(:func:`randomly_altered`), and words are judged by how many stay under each alteration
(:data:`ALTERATIONS`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

SAVED_QUALITY: Final = 75
"""Pillow's standard quality of JPEG, and libjpeg's: what a program writes that was told nothing."""
RESIZED: Final = 0.75
"""Share of width and height that is left, before the photo is brought back to its size."""
CROPPED: Final = 0.03
"""Share of width and height that is cut off at each edge."""
LONGEST_SIDE: Final = 65_500
"""Pixels that a JPEG file may be wide or high: what libjpeg writes at most."""

RANDOM_QUALITY: Final = (40, 95)
RANDOM_SIZE: Final = (0.5, 1.0)
RANDOM_CROP: Final = 0.06
RANDOM_BRIGHTNESS: Final = 0.1


def saved_again(
    image: Image.Image, quality: int = SAVED_QUALITY, subsampling: int = 2
) -> Image.Image:
    """The photo after a JPEG file; one too long for it is brought to :data:`LONGEST_SIDE` first.

    Args:
        image: mode RGB, at least one pixel.
        quality: of the file, 1 to 95.
        subsampling: Pillow's number; 2, its default, keeps colours at half the resolution.
    """
    file = io.BytesIO()
    if max(image.size) > LONGEST_SIDE:
        width, height = (min(side, LONGEST_SIDE) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    image.save(file, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(file, formats=["JPEG"]) as saved:
        return saved.convert("RGB")


def resized_and_back(image: Image.Image, share: float = RESIZED) -> Image.Image:
    """The photo after it was ``share`` as wide and as high, one pixel at least (bicubic)."""
    width, height = image.size
    small = max(1, round(share * width)), max(1, round(share * height))
    smaller = image.resize(small, Image.Resampling.BICUBIC)
    return smaller.resize(image.size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float = CROPPED) -> Image.Image:
    """The photo without ``share`` of it at each edge, in whole pixels; the rest as it was."""
    width, height = image.size
    across, down = round(share * width), round(share * height)
    return image.crop((across, down, width - across, height - down))


ALTERATIONS: Final[Mapping[str, Callable[[Image.Image], Image.Image]]] = {
    "jpeg": saved_again,
    "resize": resized_and_back,
    "crop": cropped,
}
"""By name, what a photo is compared after. Each takes and gives an image of mode RGB."""


def randomly_altered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A copy that is cropped, reduced, brightened or darkened, and saved, each or not.

    Each of the four happens to half of the photos: up to ``RANDOM_CROP`` cut off at each edge, a
    size of ``RANDOM_SIZE`` across and down, brightness off by up to ``RANDOM_BRIGHTNESS``, and a
    JPEG file of a quality of ``RANDOM_QUALITY``, with colours at full or half resolution. Sizes
    across and down differ, as they do where photos of any shape are squeezed into a square.

    Args:
        image: mode RGB.
        rng: draws the same numbers whatever happens, so that photos can be told apart by seed.

    Returns:
        An image of the size of ``image``, mode RGB.
    """
    happens = rng.random(4) < 0.5
    edges = rng.uniform(0, RANDOM_CROP, 4)
    shares = rng.uniform(*RANDOM_SIZE, 2)
    brightness = rng.uniform(1 - RANDOM_BRIGHTNESS, 1 + RANDOM_BRIGHTNESS)
    quality = int(rng.integers(RANDOM_QUALITY[0], RANDOM_QUALITY[1] + 1))
    subsampling = int(rng.choice((0, 2)))
    width, height = size = image.size
    box = (0.0, 0.0, float(width), float(height))
    if happens[0]:
        left, top, right, bottom = edges
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    if happens[1]:
        size = max(1, round(shares[0] * width)), max(1, round(shares[1] * height))
    if happens[0] or happens[1]:
        image = image.resize(size, Image.Resampling.BICUBIC, box=box)
    if happens[2]:
        image = ImageEnhance.Brightness(image).enhance(brightness)
    if happens[3]:
        image = saved_again(image, quality, subsampling)
    return image.resize((width, height), Image.Resampling.BICUBIC)  # a copy, where it has that size


def altered_pixels(
    images: NDArray[np.uint8], places: Sequence[int], *, seed: int, epoch: int
) -> NDArray[np.uint8]:
    """Random alterations of some images.

    Args:
        images: uint8 ``[n, 3, height, width]``.
        places: which of them. What happens to one hangs on its place, ``seed`` and ``epoch``, not
            on the others.
        seed: of what happens, not negative.
        epoch: as ``seed``.

    Returns:
        uint8 ``[places, 3, height, width]``.
    """
    altered = np.empty((len(places), *images.shape[1:]), np.uint8)
    for row, place in enumerate(places):
        image = Image.fromarray(np.ascontiguousarray(images[place].transpose(1, 2, 0)))
        rng = np.random.default_rng((seed, epoch, place))
        altered[row] = np.asarray(randomly_altered(image, rng)).transpose(2, 0, 1)
    return altered
