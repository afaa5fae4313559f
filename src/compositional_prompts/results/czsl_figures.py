"""Compositional zero-shot metrics of every draw of products, without the model that was judged.

A draw of products weighs every image by how often its product came. The curve of seen and unseen
accuracy is evaluated exactly for every draw: its points lie at the same margins, whatever the
weights, so that images are sorted once and running sums of weights, of many draws at a time, are
the accuracies. Only the margins of right images of unseen pairs are looked at: seen accuracy alone
changes at the others, which adds nothing to the area, and only lowers the harmonic mean. A margin
whose images did not come repeats the point before it, which changes neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.results.bootstrap import BLOCK, DRAWS, Bootstrap, Counts, Samples

CZSL_FIGURES: Final = (
    *("best_seen", "best_unseen", "best_hm", "auc"),
    *("attribute_accuracy", "object_accuracy"),
)
"""What :func:`czsl_figures` gives of every draw, in its order."""

FEWEST_DRAWS: Final = 1_000
"""Of very many images, whose curves are costly."""

MOST_WEIGHTS: Final = 200_000_000
"""Up to so many weights, draws times images, there are as many draws as of means."""


@dataclass(frozen=True)
class JudgedImages:
    """How a scorer judged ``n`` labelled images in one world; bool ``[n]`` but for the margin.

    Attributes:
        seen: whether the true pair is a seen one.
        hit: whether it is the best of its kind, of the seen or of the unseen pairs.
        margin: score of the best seen pair less that of the best unseen one, float64 ``[n]``; a
            bias on unseen pairs above it makes the best unseen pair win.
        attribute_hit, object_hit: whether the best pair of all has the true one.
    """

    seen: NDArray[np.bool_]
    hit: NDArray[np.bool_]
    margin: NDArray[np.float64]
    attribute_hit: NDArray[np.bool_]
    object_hit: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.seen)


def czsl_bootstrap(products: NDArray[np.int64]) -> Bootstrap:
    """Draws for :func:`czsl_figures`: 10,000 of up to 20,000 images, 1,000 of 200,000 and more."""
    images = max(len(products), 1)
    return Bootstrap(products, draws=min(DRAWS, max(FEWEST_DRAWS, MOST_WEIGHTS // images)))


def czsl_figures(images: JudgedImages, bootstrap: Bootstrap) -> tuple[NDArray[np.float64], Samples]:
    """The metrics of :data:`CZSL_FIGURES`, NaN where there are no images of one.

    Returns:
        Of all images, float64 ``[figures]``, and of every draw, ``[draws, figures]``.

    Args:
        images: in the order of the products that ``bootstrap`` draws.
        bootstrap: draws.
    """
    seen, margin = images.seen, images.margin
    seen_hit, unseen_hit = images.hit & seen, images.hit & ~seen
    lost, won = (_by_margin(hits, margin) for hits in (seen_hit, unseen_hit))
    changes = np.unique(margin[won][np.isfinite(margin[won])])
    # Of the images in the order of margins, how many have changed at a bias: below all changes,
    # which those of minus infinity always have, and after each of them.
    biases = np.concatenate([[-np.inf], changes])
    lost_after = np.searchsorted(margin[lost], biases, side="right")
    lost_before = np.searchsorted(margin[lost], changes, side="left")
    won_after = np.searchsorted(margin[won], biases, side="right")
    sums = bootstrap.sums(
        np.stack(
            [
                *(seen, ~seen, seen_hit, unseen_hit),
                images.attribute_hit,
                images.object_hit,
            ],
            axis=1,
        )
    )
    rows = max(BLOCK // max(len(seen), 1), 1)

    def figures(counts: Counts) -> Samples:
        found = [of_draws(counts[start : start + rows]) for start in range(0, len(counts), rows)]
        return np.concatenate(found)

    def of_draws(counts: Counts) -> Samples:
        of_seen, of_unseen, kept, gained, attributes, objects = (counts @ sums).T
        every = of_seen + of_unseen
        with np.errstate(divide="ignore", invalid="ignore"):
            best_seen, best_unseen = kept / of_seen, gained / of_unseen
            attributes, objects = attributes / every, objects / every
        all_lost, all_won = (_running(counts, bootstrap.drawn[order]) for order in (lost, won))
        points, before = kept[:, None] - all_lost[:, lost_after], all_lost[:, lost_before]
        of_points = all_won[:, won_after]
        with np.errstate(divide="ignore", invalid="ignore"):
            total = of_seen[:, None] * of_points + of_unseen[:, None] * points
            harmonic = (2 * points * of_points / np.maximum(total, np.finfo(np.float64).tiny)).max(
                axis=1
            )
            means = (points[:, 1:] + kept[:, None] - before) / 2
            area = np.einsum("dp,dp->d", means, np.diff(of_points, axis=1)) / (of_seen * of_unseen)
        harmonic[(of_seen == 0) | (of_unseen == 0)] = np.nan
        return np.stack([best_seen, best_unseen, harmonic, area, attributes, objects], axis=1)

    if not len(seen):
        return np.full(len(CZSL_FIGURES), np.nan), np.empty((0, len(CZSL_FIGURES)))
    return of_draws(np.ones((1, bootstrap.size)))[0], bootstrap.samples(figures)


def _by_margin(hits: NDArray[np.bool_], margin: NDArray[Any]) -> NDArray[np.int64]:
    """Places of the images of a mask, by ascending margin."""
    places = np.flatnonzero(hits)
    return places[np.argsort(margin[places], kind="stable")]


def _running(counts: Counts, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of the weights of images before each, and of all: ``[d, images + 1]``."""
    sums = np.zeros((len(counts), len(drawn) + 1))
    np.cumsum(np.take(counts, drawn, axis=1), axis=1, out=sums[:, 1:])
    return sums
