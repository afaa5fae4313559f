"""What colours a product has, without a model: those of the pixels that are not background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.compute.rows.computation import Computation
from compositional_prompts.enhancement.colors.cielab import to_cielab

SIDE = 128
"""Images are reduced to this many pixels a side: a product's colour needs no more."""
TOLERANCE = 6.0
"""CIELAB distance from the border's colour within which a pixel may be background. White products
on a white ground leave little margin; JPEG noise needs some."""
SMALLEST_FOREGROUND = 0.02
"""Share of the pixels below which nothing is told apart from the background: the product then has
the background's colour, and every pixel counts."""

LIGHTNESS = np.array([0, 20, 45, 70, 100], np.float32)
CHROMA = np.array([-45, -20, -8, 0, 8, 20, 45], np.float32)
"""Centres of the histogram's bins in L*, and in a* and b*: close to one another near grey, where
most products and most words are."""
BINS = len(LIGHTNESS) * len(CHROMA) ** 2
"""Bins of a histogram, 245."""

Palette = Mapping[str, NDArray[np.uint8]]
"""Word to RGB, uint8 ``[3]``."""


class ColorsOfPhoto(NamedTuple):
    """The foreground of one photo.

    Attributes:
        histogram: share of the pixels a bin, float32 ``[245]``; sums to 1.
        votes: by group, how many pixels are nearest to each word of its palette (CIE76 distance),
            int64 ``[words]``.
    """

    histogram: NDArray[np.float32]
    votes: dict[str, NDArray[np.int64]]


def foreground(lab: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell the product from an even background.

    Background are the pixels within ``TOLERANCE`` of the border's median colour that are joined to
    the border through such pixels, so that a white shoe on white is told apart wherever an outline
    encloses it. Where that leaves less than ``SMALLEST_FOREGROUND``, all is foreground.

    Args:
        lab: CIELAB float32 ``[height, width, 3]``, at least one pixel.

    Returns:
        bool ``[height, width]``, True in at least one place.
    """
    edges = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    alike = np.linalg.norm(lab - np.median(edges, axis=0), axis=-1) <= TOLERANCE
    border = np.zeros_like(alike)
    border[[0, -1], :] = border[:, [0, -1]] = True
    background = _reach(alike & border, alike)
    rest: NDArray[np.bool_] = ~background
    return rest if rest.mean() >= SMALLEST_FOREGROUND else np.ones_like(rest)


def _reach(seeds: NDArray[np.bool_], open_: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of ``open_`` that are 4-connected to ``seeds`` within ``open_``.

    Fills whole rows, then whole columns, until nothing is added: a few rounds, where growing by
    one pixel would take as many as the image is wide.
    """
    reached = seeds
    while True:
        grown = _fill_rows(_fill_rows(reached, open_).T, open_.T).T
        if np.array_equal(grown, reached):
            return reached
        reached = grown


def _fill_rows(seeds: NDArray[np.bool_], open_: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # A wall after every row keeps runs from going on in the next one.
    walled = np.pad(open_, ((0, 0), (0, 1)))
    runs = np.cumsum(~walled.ravel()).reshape(walled.shape)[:, :-1]
    seeded = np.zeros(walled.size + 1, dtype=bool)
    seeded[runs[seeds]] = True
    return seeded[runs] & open_


def soft_histogram(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of pixels at every colour of a grid over CIELAB.

    A pixel counts for the eight colours around it, for each the more the nearer (trilinear), so
    that a small change of its colour is a small change of the histogram. Colours beyond the grid
    count for its edge.

    Args:
        pixels: CIELAB float32 ``[pixels, 3]``, at least one.

    Returns:
        float32 ``[245]``, L* slowest and b* fastest.
    """
    places, shares = [], []
    for values, centres in zip(pixels.T, (LIGHTNESS, CHROMA, CHROMA), strict=True):
        inside = np.clip(values, centres[0], centres[-1])
        low = np.clip(np.searchsorted(centres, inside, side="right") - 1, 0, len(centres) - 2)
        high = (inside - centres[low]) / (centres[low + 1] - centres[low])
        places.append((low, low + 1))
        shares.append((1 - high, high))
    counts = np.zeros(BINS)
    for corner in product((0, 1), repeat=3):
        lightness, a, b = (places[axis][side] for axis, side in enumerate(corner))
        weights = np.prod([shares[axis][side] for axis, side in enumerate(corner)], axis=0)
        bins = (lightness * len(CHROMA) + a) * len(CHROMA) + b
        counts += np.bincount(bins, weights, minlength=BINS)
    return (counts / len(pixels)).astype(np.float32)


def foreground_colors(image: Image.Image, palettes: Mapping[str, Palette]) -> ColorsOfPhoto:
    """The colours of a product's pixels.

    Args:
        image: any RGB image; it is reduced to at most ``SIDE`` pixels a side.
        palettes: by group, the reference colours of its words; none is empty.
    """
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    lab = to_cielab(np.asarray(small))
    pixels = lab[foreground(lab)]
    votes = {}
    for group, palette in palettes.items():
        references = to_cielab(np.stack(list(palette.values())))
        distances = np.linalg.norm(pixels[:, None] - references, axis=-1)
        votes[group] = np.bincount(distances.argmin(axis=1), minlength=len(palette))
    return ColorsOfPhoto(soft_histogram(pixels), votes)


@dataclass(frozen=True)
class ForegroundColors(Computation):
    """Rows of ``histogram``, float16 ``[245]``, and ``votes``, uint16 ``[words]``, those of every
    palette one after the other.

    Attributes:
        palettes: by group; at least one.
    """

    name: ClassVar[str] = "foreground_colors"
    in_processes: ClassVar[bool] = True

    palettes: Mapping[str, Palette]

    def settings(self) -> Mapping[str, Any]:
        return {
            "palettes": [
                [group, [[word, rgb.tolist()] for word, rgb in palette.items()]]
                for group, palette in self.palettes.items()
            ]
        }

    def start(self) -> ColorWorker:
        return ColorWorker(self.palettes)

    @property
    def row_type(self) -> np.dtype[Any]:
        """Of the rows."""
        return row_type(self.palettes)


def row_type(palettes: Mapping[str, Palette]) -> np.dtype[Any]:
    """Of the rows of :class:`ForegroundColors`; a photo has at most 16,384 pixels to vote."""
    words = sum(map(len, palettes.values()))
    return np.dtype([("histogram", np.float16, (BINS,)), ("votes", np.uint16, (words,))])


class ColorWorker:
    """The rows of encoded photos, or of images."""

    def __init__(self, palettes: Mapping[str, Palette]) -> None:
        self._palettes = palettes

    def prepare(self, value: bytes) -> ColorsOfPhoto:
        return self.look_at(decode_rgb(value))

    def look_at(self, image: Image.Image) -> ColorsOfPhoto:
        """As :meth:`prepare`, of an RGB image."""
        return foreground_colors(image, self._palettes)

    def compute(self, prepared: Sequence[ColorsOfPhoto]) -> NDArray[Any]:
        rows = np.zeros(len(prepared), row_type(self._palettes))
        for row, photo in zip(rows, prepared, strict=True):
            row["histogram"] = photo.histogram
            row["votes"] = np.concatenate(list(photo.votes.values()))
        return rows
