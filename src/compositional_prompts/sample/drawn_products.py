"""Seeded, parallel, streaming generation of the sample catalog and the pretraining corpus."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple, TypeVar

import numpy as np

from compositional_prompts.compute.ordered_map import batched, map_in_processes
from compositional_prompts.sample.appearance import (
    ATTRIBUTES,
    COLORS,
    OBJECTS,
    PairDistribution,
    catalog_pairs,
    in_color,
    sample_colors,
    sample_product,
)
from compositional_prompts.sample.rendering import render_jpeg
from compositional_prompts.sample.wording import caption, title

# Spawn keys that keep the streams of one seed apart.
_SIZES_STREAM: Final = 0
_PRODUCT_STREAM: Final = 1
_PHOTO_STREAM: Final = 2
_CORPUS_STREAM: Final = 3

# Shares of products with 1, 2, 3 and 4 images.
_SIZE_SHARES: Final = (0.25, 0.30, 0.25, 0.20)
_SIZES_AT_ONCE: Final = 1024
# Rows a worker renders per task: about a tenth of a second of work, a quarter megabyte back.
_PRODUCTS_A_TASK: Final = 16
_CORPUS_ROWS_A_TASK: Final = 48
# Steps of a golden-ratio sequence fall evenly into [0, 1), so rare pairs get their share early.
_GOLDEN: Final = 0.6180339887498949

_Row = TypeVar("_Row")


class SampleRow(NamedTuple):
    """One catalog image with its labels; `image` is JPEG bytes, 136 x 102 pixels."""

    image_id: str
    product_id: str
    image: bytes
    path: str
    attribute: str
    object: str
    color: str
    material: str
    closure: str
    heel_height: str
    title: str | None


class CorpusRow(NamedTuple):
    """One pretraining image (JPEG bytes, 136 x 102 pixels) and its caption."""

    image: bytes
    caption: str


class _ProductTask(NamedTuple):
    """One product to render: its number, its first image's number and its number of images."""

    seed: int
    number: int
    first_image: int
    images: int


class _CorpusTask(NamedTuple):
    """One corpus image to render."""

    seed: int
    number: int


_Task = TypeVar("_Task", _ProductTask, _CorpusTask)


def generate_catalog(images: int, seed: int, workers: int) -> Iterator[SampleRow]:
    """Yield exactly `images` catalog rows in a stable order.

    The rows depend on `seed` alone: not on `workers` (processes; 1 or less renders in this one),
    and a larger `images` only appends. Memory stays bounded whatever `images` is.

    Raises:
        ValueError: `images` is below 1 or `seed` is negative.
    """
    _check(images, seed)
    return _rows(_render_products, _product_tasks(images, seed), _PRODUCTS_A_TASK, workers)


def generate_corpus(images: int, seed: int, workers: int) -> Iterator[CorpusRow]:
    """Yield exactly `images` captioned pretraining images in a stable order.

    Types, fine materials and colours are drawn independently and uniformly, so all their
    combinations occur, also those no catalog product has. The random streams are apart from
    the catalog's under the same seed. Everything else is as in `generate_catalog`.

    Raises:
        ValueError: `images` is below 1 or `seed` is negative.
    """
    _check(images, seed)
    tasks = (_CorpusTask(seed, row) for row in range(images))
    return _rows(_render_corpus, tasks, _CORPUS_ROWS_A_TASK, workers)


def _check(images: int, seed: int) -> None:
    if images < 1:
        raise ValueError(f"images must be at least 1, not {images}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _product_tasks(images: int, seed: int) -> Iterator[_ProductTask]:
    """Cut `images` images into products; the last one is cut short where needed."""
    rng = _rng(seed, _SIZES_STREAM)
    product = first = 0
    while True:
        sizes = rng.choice(len(_SIZE_SHARES), size=_SIZES_AT_ONCE, p=_SIZE_SHARES) + 1
        for size in sizes.tolist():
            yield _ProductTask(seed, product, first, min(size, images - first))
            product += 1
            first += size
            if first >= images:
                return


@lru_cache(maxsize=4)
def _pairs(seed: int) -> PairDistribution:
    return catalog_pairs(seed)


def _render_products(tasks: list[_ProductTask]) -> list[SampleRow]:
    return [row for task in tasks for row in _product_rows(task)]


def _product_rows(task: _ProductTask) -> Iterator[SampleRow]:
    """Render one product in as many colours as it has images."""
    rng = _rng(task.seed, _PRODUCT_STREAM, task.number)
    attribute, object_ = _pairs(task.seed).at((task.number + 0.5) * _GOLDEN % 1.0)
    product = sample_product(object_, attribute, rng)
    # Always all four, so that a product cut short keeps the colours it would have had.
    colors = sample_colors(len(_SIZE_SHARES), rng)
    for number, color in enumerate(colors[: task.images]):
        index = task.first_image + number
        photo = _rng(task.seed, _PHOTO_STREAM, index)
        shoe = in_color(product, color, photo)
        image_id = f"sample-{index:06d}"
        yield SampleRow(
            image_id=image_id,
            product_id=f"sample-p{task.number:05d}",
            image=render_jpeg(shoe, photo),
            path=f"{image_id}.jpg",
            attribute=shoe.attribute,
            object=shoe.object,
            color=shoe.color,
            material=shoe.material,
            closure=shoe.closure,
            heel_height=shoe.heel_height,
            title=title(shoe),
        )


def _render_corpus(tasks: list[_CorpusTask]) -> list[CorpusRow]:
    rows: list[CorpusRow] = []
    for task in tasks:
        rng = _rng(task.seed, _CORPUS_STREAM, task.number)
        object_ = OBJECTS[int(rng.integers(len(OBJECTS)))]
        attribute = ATTRIBUTES[int(rng.integers(len(ATTRIBUTES)))]
        color = COLORS[int(rng.integers(len(COLORS)))]
        shoe = in_color(sample_product(object_, attribute, rng), color, rng)
        rows.append(CorpusRow(render_jpeg(shoe, rng), caption(shoe, rng)))
    return rows


def _rows(
    render: Callable[[list[_Task]], list[_Row]],
    tasks: Iterable[_Task],
    chunk: int,
    workers: int,
) -> Iterator[_Row]:
    """Map `render` over chunks of tasks, in order, in this process or in worker processes."""
    chunks = batched(tasks, chunk)
    rendered: Iterable[list[_Row]]
    if workers <= 1:
        rendered = map(render, chunks)
    else:
        rendered = map_in_processes(
            render, chunks, workers=workers, in_flight=3 * workers, died=_drawing_died
        )
    yield from chain.from_iterable(rendered)


def _drawing_died(first: list[_Task], last: list[_Task]) -> str:
    return (
        f"it drew the generated shoes from number {first[0].number} to {last[-1].number}: memory "
        "ran out, or it was killed. Lower base.workers."
    )
