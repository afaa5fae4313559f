"""A baseline without a model: the reference colour nearest to the product's pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.compute.rows.computation import Computation
from compositional_prompts.enhancement.cielab import to_cielab

SIDE = 128
"""Images are reduced to this many pixels a side: a product's colour needs no more."""
TOLERANCE = 6.0
"""CIELAB distance from the border's colour within which a pixel may be background. White products
on a white ground leave little margin; JPEG noise needs some."""
SMALLEST_FOREGROUND = 0.02
"""Share of the pixels below which nothing is told apart from the background: the product then has
the background's colour, and every pixel counts."""

Palette = Mapping[str, NDArray[np.uint8]]
"""Word to RGB, uint8 ``[3]``."""


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
    product: NDArray[np.bool_] = ~background
    return product if product.mean() >= SMALLEST_FOREGROUND else np.ones_like(product)


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


def nearest_words(image: Image.Image, palettes: Mapping[str, Palette]) -> dict[str, str]:
    """Name the word of each palette that most foreground pixels are nearest to (CIE76 distance).

    Args:
        image: any RGB image; it is reduced to at most ``SIDE`` pixels a side.
        palettes: by group, the reference colours of its words; none is empty.

    Returns:
        Group to word; of words with equally many pixels, the first.
    """
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    lab = to_cielab(np.asarray(small))
    pixels = lab[foreground(lab)]
    answer = {}
    for group, palette in palettes.items():
        words = list(palette)
        references = to_cielab(np.stack([palette[word] for word in words]))
        distances = np.linalg.norm(pixels[:, None] - references, axis=-1)
        votes = np.bincount(distances.argmin(axis=1), minlength=len(words))
        answer[group] = words[int(votes.argmax())]
    return answer


@dataclass(frozen=True)
class PixelWords(Computation):
    """Rows of one field, ``word``: of each palette the place of the nearest word, int32 ``[p]``.

    Attributes:
        palettes: by group; at least one.
    """

    name: ClassVar[str] = "pixel_words"
    in_processes: ClassVar[bool] = True

    palettes: Mapping[str, Palette]

    def settings(self) -> Mapping[str, Any]:
        return {
            "palettes": [
                [group, [[word, rgb.tolist()] for word, rgb in palette.items()]]
                for group, palette in self.palettes.items()
            ]
        }

    def start(self) -> _PixelWorker:
        return _PixelWorker(self.palettes)

    def words(self, rows: NDArray[Any]) -> dict[str, list[str]]:
        """By group, the words that rows name."""
        return {
            group: [words[place] for place in rows["word"][:, column].tolist()]
            for column, (group, words) in enumerate(
                (group, list(palette)) for group, palette in self.palettes.items()
            )
        }


class _PixelWorker:
    def __init__(self, palettes: Mapping[str, Palette]) -> None:
        self._palettes = palettes
        self._places = [
            {word: place for place, word in enumerate(palette)} for palette in palettes.values()
        ]

    def prepare(self, value: bytes) -> list[int]:
        named = nearest_words(decode_rgb(value), self._palettes).values()
        return [places[word] for places, word in zip(self._places, named, strict=True)]

    def compute(self, prepared: Sequence[list[int]]) -> NDArray[Any]:
        rows = np.zeros(len(prepared), [("word", np.int32, (len(self._palettes),))])
        rows["word"] = prepared
        return rows
