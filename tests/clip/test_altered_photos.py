"""Alterations of photos: what each does to the pixels, and what decides the random ones."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from compositional_prompts.clip.altered_photos import (
    ALTERATIONS,
    CROPPED,
    LONGEST_SIDE,
    RANDOM_BRIGHTNESS,
    altered_pixels,
    cropped,
    randomly_altered,
    resized_and_back,
    saved_again,
)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def apart(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference in levels."""
    first, second = (np.asarray(image, dtype=np.float64) for image in (one, other))
    return float(np.abs(first - second).mean())


def test_saving_again_is_a_file_of_pillows_standard_quality() -> None:
    image, file = photo(60, 80), io.BytesIO()
    image.save(file, "JPEG")
    assert saved_again(image).tobytes() == Image.open(file).convert("RGB").tobytes()
    assert saved_again(photo(LONGEST_SIDE + 1, 2)).size == (LONGEST_SIDE, 2)
    assert apart(image, saved_again(image, 95, 0)) < apart(image, saved_again(image, 40))


def test_resizing_loses_what_is_fine_and_keeps_the_size() -> None:
    checks = np.zeros((40, 60, 3), dtype=np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    fine, smooth = Image.fromarray(checks), photo(60, 40)
    assert resized_and_back(fine).size == (60, 40)
    assert apart(resized_and_back(fine), fine) > 20 > apart(resized_and_back(smooth), smooth)


def test_a_crop_is_the_middle_of_the_photo() -> None:
    image = photo(100, 200)
    across, down = round(100 * CROPPED), round(200 * CROPPED)
    expected = np.asarray(image)[down:-down, across:-across]
    np.testing.assert_array_equal(np.asarray(cropped(image)), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (3, 2), (17, 9)])
def test_photos_of_any_size_are_altered(size: tuple[int, int]) -> None:
    image = photo(*size)
    for name, alter in ALTERATIONS.items():
        altered = alter(image)
        assert altered.mode == "RGB" and min(altered.size) >= 1, name
    for seed in range(16):
        assert randomly_altered(image, np.random.default_rng(seed)).size == size


def test_random_copies_differ_a_little_and_some_not_at_all() -> None:
    image = photo(96, 96)
    copies = [randomly_altered(image, np.random.default_rng(seed)) for seed in range(200)]
    distances = np.array([apart(image, copy) for copy in copies])
    # Each of four alterations happens to half: none of them to one in 16.
    assert 200 / 16 / 3 < (distances == 0).sum() < 3 * 200 / 16
    # Slight: of levels that are 128 in the mean, some tenths at most.
    assert 1 < np.median(distances) < distances.max() < 128 * (RANDOM_BRIGHTNESS + 0.2)


def test_what_happens_to_a_photo_hangs_on_its_place_seed_and_epoch_alone() -> None:
    images = np.stack([np.asarray(photo(48, 40, seed)).transpose(2, 0, 1) for seed in range(12)])
    before = images.copy()
    whole = altered_pixels(images, range(12), seed=3, epoch=1)
    assert whole.dtype == np.uint8 and whole.shape == (12, 3, 40, 48)
    np.testing.assert_array_equal(images, before)
    order = [7, 2, 11]
    np.testing.assert_array_equal(altered_pixels(images, order, seed=3, epoch=1), whole[order])
    for seed, epoch in ((4, 1), (3, 2)):
        assert (altered_pixels(images, range(12), seed=seed, epoch=epoch) != whole).any()
    assert altered_pixels(images, [], seed=3, epoch=1).shape == (0, 3, 40, 48)
