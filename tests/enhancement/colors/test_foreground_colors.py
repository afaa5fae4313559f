"""The baseline of foreground pixels."""

import io

import numpy as np
import pytest
from base_section import base_section
from PIL import Image, ImageDraw

from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.compute.rows.completed_rows import complete_rows
from compositional_prompts.enhancement.colors.cielab import to_cielab
from compositional_prompts.enhancement.colors.color_tables import colors_of_rows, pixel_words
from compositional_prompts.enhancement.colors.foreground_colors import (
    BINS,
    CHROMA,
    LIGHTNESS,
    ForegroundColors,
    foreground,
    foreground_colors,
    soft_histogram,
)
from compositional_prompts.enhancement.colors.reference_colors import reference_colors

WORDS = ["black", "white", "red", "blue", "green", "yellow"]
PALETTE = reference_colors(WORDS, [])
assert PALETTE is not None


def nearest_words(image, palettes):
    """By group, the word with most votes."""
    votes = foreground_colors(image, palettes).votes
    return {group: list(palettes[group])[int(found.argmax())] for group, found in votes.items()}


def product(color, ground="white", size=(136, 102), outline=None):
    image = Image.new("RGB", size, ground)
    width, height = size
    box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    ImageDraw.Draw(image).ellipse(box, fill=color, outline=outline)
    return image


def as_jpeg(image, quality=80):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize("ground", ["white", "#f4f4f4", "#203040"])
@pytest.mark.parametrize(
    ("color", "word"),
    [("#101010", "black"), ("#cc1111", "red"), ("#2244cc", "blue"), ("#ffee22", "yellow")],
)
def test_the_product_is_named_not_the_ground(color, ground, word):
    image = Image.open(io.BytesIO(as_jpeg(product(color, ground)))).convert("RGB")
    assert nearest_words(image, {"color": PALETTE}) == {"color": word}


def test_a_white_product_on_white_is_white():
    assert nearest_words(product("white"), {"color": PALETTE}) == {"color": "white"}
    outlined = product("#fdfdfd", outline="#909090")
    assert nearest_words(outlined, {"color": PALETTE}) == {"color": "white"}
    # The outline keeps the inside apart from the ground, though both have one colour.
    assert foreground(to_cielab(np.asarray(outlined)))[51, 68]


def test_every_palette_is_answered():
    two = {"color": PALETTE, "trim": {"red": PALETTE["red"]}}
    assert nearest_words(product("blue"), two) == {"color": "blue", "trim": "red"}


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 2), (20_000, 3)])
def test_any_size_gives_an_answer(size):
    assert nearest_words(Image.new("RGB", size, "red"), {"color": PALETTE}) == {"color": "red"}


def test_foreground_against_growing_one_pixel_at_a_time():
    random = np.random.default_rng(11)
    for _ in range(20):
        height, width = random.integers(3, 24, 2)
        rgb = np.where(random.random((height, width)) < 0.62, 255, 90).astype(np.uint8)
        rgb[[0, -1]] = rgb[:, [0, -1]] = 255
        lab = to_cielab(np.repeat(rgb[..., None], 3, axis=-1))
        background = np.zeros((height, width), dtype=bool)
        stack = [(0, 0)]
        while stack:
            y, x = stack.pop()
            if 0 <= y < height and 0 <= x < width and rgb[y, x] == 255 and not background[y, x]:
                background[y, x] = True
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        expected = ~background if (~background).mean() >= 0.02 else np.ones_like(background)
        np.testing.assert_array_equal(foreground(lab), expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_name_the_words_whatever_the_workers(tmp_path, workers):
    colors = np.random.default_rng(5).choice(WORDS, 30).tolist()
    with open_shards(tmp_path / "catalog", shard_mib=1) as shards:
        for number, color in enumerate(colors):
            photo = as_jpeg(product(color, "#ececec", (24, 20 + number)), 95)
            shards.write(CatalogRow(f"image-{number}", "p", photo, "x.jpg"))
    computation = ForegroundColors({"color": PALETTE})
    base = base_section(tmp_path / "rows", workers=workers)
    with complete_rows(computation, CatalogPhotos(tmp_path / "catalog"), base) as rows:
        (batch,) = rows.batches()
    found = colors_of_rows(batch, {"color": WORDS}, {"color": PALETTE})["color"]
    assert pixel_words(found, WORDS) == colors
    assert found.shape == (30, BINS + len(WORDS))
    np.testing.assert_allclose(found[:, :BINS].sum(axis=1), 1, atol=2e-3)
    np.testing.assert_allclose(found[:, BINS:].sum(axis=1), 1, rtol=1e-6)
    other = {word: rgb for word, rgb in PALETTE.items() if word != WORDS[0]}
    assert ForegroundColors({"color": other}).identity() != computation.identity()


def test_the_histogram_against_one_pixel_and_one_corner_at_a_time():
    random = np.random.default_rng(3)
    pixels = (random.normal(size=(50, 3)) * [30, 40, 40] + [50, 0, 0]).astype(np.float32)
    grid = np.zeros((5, 7, 7))
    for pixel in pixels.astype(np.float64):
        corners = [(1.0, ())]
        for value, centres in zip(pixel, (LIGHTNESS, CHROMA, CHROMA), strict=True):
            # The hat functions of linear interpolation, flat outside.
            hats = np.array([np.interp(value, centres, unit) for unit in np.eye(len(centres))])
            corners = [
                (weight * hat, (*place, index))
                for weight, place in corners
                for index, hat in enumerate(hats)
                if hat
            ]
        for weight, place in corners:
            grid[place] += weight / len(pixels)
    np.testing.assert_allclose(soft_histogram(pixels), grid.ravel(), atol=1e-6)


def test_words_without_a_colour_have_no_votes():
    words = ["patterned", "red", "plain", "blue"]
    palette = {"red": PALETTE["red"], "blue": PALETTE["blue"]}
    worker = ForegroundColors({"color": palette}).start()
    rows = worker.compute([worker.look_at(product(color)) for color in ("red", "blue")])
    found = colors_of_rows(rows, {"color": words}, {"color": palette})["color"]
    assert pixel_words(found, words) == ["red", "blue"]
    assert (found[:, [BINS, BINS + 2]] == 0).all()
