"""Which photos teach most: those that the model is unsure of and that are unlike one another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Distances = Callable[[int], NDArray[np.float32]]


def choose_informative(
    probabilities: NDArray[np.float32],
    vectors: NDArray[np.float32],
    products: NDArray[np.int64],
    wanted: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose photos by BADGE (Ash et al., ICLR 2020, algorithm 1).

    A photo's gradient embedding is what it would move the last layer by if the model's own best
    word were true, ``(p - e_best) x vector``: long where the model is unsure, and alike for photos
    that look alike and are taken for the same words. Vectors are taken less their mean, which is
    most of a CLIP vector and the same for all. Photos are drawn as k-means++ draws its
    centres, each with a probability that grows with the squared distance from those drawn before.
    So each is worth more than the ones after it, and one may stop anywhere. A product has one
    photo drawn while there are others.

    The embeddings (``words x dimension`` numbers each) are never made: the inner product of two is
    the product of those of their factors. Time is ``wanted * n * (dimension + words)``, memory
    that of the arguments once more.

    Args:
        probabilities: of every word, float32 ``[n, words]``.
        vectors: float32 ``[n, dimension]``.
        products: a number for each product, int64 ``[n]``.
        wanted: how many; all where there are not so many.
        random: what draws.

    Returns:
        Rows in the order in which they were drawn, int64 ``[min(wanted, n)]``.

    Raises:
        ValueError: a probability or a vector is not finite.
    """
    if not (np.isfinite(probabilities).all() and np.isfinite(vectors).all()):
        raise ValueError("a probability or a vector of a photo is not finite: run enhance again.")
    centred = vectors - vectors.mean(axis=0) if len(vectors) else vectors
    gradients = probabilities.copy()
    rows = np.arange(len(gradients))
    gradients[rows, probabilities.argmax(axis=1)] -= 1
    lengths = _squares(gradients) * _squares(centred)

    def distances(row: int) -> NDArray[np.float32]:
        products_ = (gradients @ gradients[row]) * (centred @ centred[row])
        squared: NDArray[np.float32] = np.maximum(lengths + lengths[row] - 2 * products_, 0)
        return squared

    return _spread(lengths, distances, products, min(wanted, len(rows)), random)


def _squares(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    squares: NDArray[np.float32] = np.einsum("ij,ij->i", rows, rows)
    return squares


def _spread(
    first: NDArray[np.float32],
    distances: Distances,
    products: NDArray[np.int64],
    wanted: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw rows one after another by their squared distance from the nearest one drawn.

    Args:
        first: by what the first is drawn, ``[n]``.
        distances: of all rows from one.
        products, wanted, random: as in :func:`choose_informative`.
    """
    chosen: list[int] = []
    nearest = np.full(len(first), np.inf, np.float32)
    free = np.ones(len(first), np.bool_)
    new_product = free.copy()
    while len(chosen) < wanted:
        open_ = free & new_product
        if not open_.any():  # every product has one: further photos of them
            new_product = np.ones_like(free)
            continue
        row = _draw(np.where(open_, first if not chosen else nearest, 0), open_, random)
        chosen.append(row)
        free[row] = False
        new_product &= products != products[row]
        nearest = np.minimum(nearest, distances(row))
    return np.array(chosen, np.int64)


def _draw(
    weights: NDArray[np.float32], open_: NDArray[np.bool_], random: np.random.Generator
) -> int:
    """A row by its weight; any open one where all of them weigh nothing."""
    ends = np.cumsum(weights, dtype=np.float64)
    if not ends[-1] > 0:
        return int(random.choice(np.flatnonzero(open_)))
    row = int(np.searchsorted(ends, random.random() * ends[-1], side="right"))
    return min(row, int(np.flatnonzero(weights)[-1]))
