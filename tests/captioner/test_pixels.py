"""Inputs without a cache: random access to the catalog's images, and augmentation."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from micro_blip2 import miniature
from PIL import Image
from small_catalog import write_catalog
from torchvision.transforms import v2

from compositional_prompts.captioner.features.feature_shards import (
    write_features,
    write_uncached,
)
from compositional_prompts.captioner.features.feature_store import FeatureStore
from compositional_prompts.captioner.features.image_inputs import open_inputs
from compositional_prompts.captioner.features.pixel_inputs import (
    CROP_AREA,
    CROP_RATIO,
    PixelInputs,
    augmented,
    random_crop,
)
from compositional_prompts.catalog.image_join import ImageJoinError
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.random_access import CatalogImages
from compositional_prompts.catalog.reading import open_shard
from compositional_prompts.files.outputs import MissingOutputError
from compositional_prompts.files.table_shards import shard_files

IMAGES = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    directory = tmp_path_factory.mktemp("pixels") / "catalog"
    return directory, write_catalog(directory, IMAGES)


def plain(image: Image.Image) -> torch.Tensor:
    return v2.functional.pil_to_tensor(image.resize((8, 8)))


def test_images_are_read_by_row_in_any_order(photos) -> None:
    directory, encoded = photos
    shards = shard_files(directory)
    groups = 0
    for shard in shards:
        with open_shard(shard) as file:
            groups += file.num_row_groups
    assert len(shards) > 1 and groups > len(shards)
    images = CatalogImages(directory)
    assert len(images) == IMAGES
    values = list(encoded.values())
    for seed in range(4):
        rows = np.random.default_rng(seed).integers(0, IMAGES, 11)
        assert images.read(rows) == [values[row] for row in rows]
    assert images.read(np.array([], np.int64)) == []
    for row in (-1, IMAGES):
        with pytest.raises(IndexError, match=f"the catalog has {IMAGES}"):
            images.read(np.array([row]))


def test_threads_share_the_images(photos) -> None:
    directory, encoded = photos
    images = CatalogImages(directory)
    values = list(encoded.values())
    orders = [np.random.default_rng(seed).integers(0, IMAGES, 9) for seed in range(30)]
    with ThreadPoolExecutor(4) as pool:
        for order, read in zip(orders, pool.map(images.read, orders), strict=True):
            assert read == [values[row] for row in order]


def test_pixels_are_the_decoded_and_preprocessed_images(photos) -> None:
    directory, encoded = photos
    captioner = miniature()
    inputs = PixelInputs(directory, captioner.preprocess, workers=2, augment=False, seed=0)
    names = [list(encoded)[row] for row in (41, 3, 3, 17)]
    read = inputs.read(inputs.positions(names))
    wanted = torch.stack([captioner.preprocess(decode_rgb(encoded[name])) for name in names])
    assert torch.equal(read, wanted)
    inputs.set_epoch(4)
    assert torch.equal(inputs.read(inputs.positions(names)), wanted)


def test_an_image_that_is_not_in_the_catalog_is_named(photos) -> None:
    inputs = PixelInputs(photos[0], plain, workers=1, augment=False, seed=0)
    with pytest.raises(ImageJoinError, match=r"lacks 1 of the images .*'stranger'"):
        inputs.positions(["image-0001.png", "stranger"])


def test_augmentation_follows_seed_epoch_and_image_alone(photos) -> None:
    def opened(seed: int) -> PixelInputs:
        return PixelInputs(photos[0], plain, workers=2, augment=True, seed=seed)

    rows = np.arange(20)
    first = opened(1)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    epochs = []
    for epoch in range(3):
        first.set_epoch(epoch)
        epochs.append(first.read(rows))
    assert torch.equal(torch.random.get_rng_state(), state)
    resumed = opened(1)
    resumed.set_epoch(2)
    assert torch.equal(resumed.read(rows[::-1][:7].copy()), epochs[2].flip(0)[:7])
    other = opened(2)
    other.set_epoch(2)
    for different in (epochs[1], other.read(rows)):
        assert sum(not torch.equal(a, b) for a, b in zip(epochs[2], different, strict=True)) > 15


def test_an_augmented_image_is_a_crop_flipped_half_of_the_time() -> None:
    # Every pixel says where it is, so the crop can be read off the result.
    height, width = 90, 120
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    whole = np.stack([y, x, np.zeros_like(x)], axis=-1)
    flips = 0
    tops, lefts = set(), set()
    for seed in range(400):
        pixels = np.asarray(augmented(Image.fromarray(whole), np.random.default_rng(seed)))
        if pixels[0, 0, 1] > pixels[0, -1, 1]:
            flips += 1
            pixels = pixels[:, ::-1]
        top, left = pixels[0, 0, :2].astype(int)
        rows, columns = pixels.shape[:2]
        assert np.array_equal(pixels, whole[top : top + rows, left : left + columns])
        # Sides are rounded to whole pixels.
        assert CROP_AREA[0] - 0.02 < rows * columns / (height * width) <= CROP_AREA[1]
        assert CROP_RATIO[0] - 0.02 < columns / rows < CROP_RATIO[1] + 0.02
        tops.add(top)
        lefts.add(left)
    assert 150 < flips < 250
    assert len(tops) > 15 and len(lefts) > 15


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 500), (500, 2), (1, 40), (37, 41)])
def test_crops_of_any_shape_lie_within_the_image(height, width) -> None:
    for seed in range(50):
        top, left, rows, columns = random_crop(height, width, np.random.default_rng(seed))
        assert top >= 0 and left >= 0 and rows >= 1 and columns >= 1
        assert top + rows <= height and left + columns <= width


def test_the_folder_says_what_is_opened(tmp_path, photos) -> None:
    captioner = miniature()
    cached, uncached = tmp_path / "cached", tmp_path / "uncached"
    write_features([(["a"], torch.ones(1, 4, 32))], cached)
    write_uncached(uncached)
    assert json.loads((uncached / "features.json").read_text()) == {"cache": False}
    assert isinstance(open_inputs(cached, photos[0], captioner, workers=1), FeatureStore)
    opened = open_inputs(uncached, photos[0], captioner, workers=1, augment=True, seed=3)
    assert isinstance(opened, PixelInputs)
    with pytest.raises(ValueError, match=r"finetune\.augment.*blip2_features\.cache to false"):
        open_inputs(cached, photos[0], captioner, workers=1, augment=True)
    with pytest.raises(MissingOutputError, match=r"features\.json is missing"):
        open_inputs(tmp_path / "nothing", photos[0], captioner, workers=1)
