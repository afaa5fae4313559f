"""Intervals of compositional zero-shot metrics, and of differences of two scorers.

A draw of products weighs every image by how often its product came. The curve of seen and unseen
accuracy is evaluated exactly for every draw: its points lie at the same margins, whatever the
weights, so that images are sorted once and running sums of weights, of many draws at a time, are
the accuracies. Only the margins of right images of unseen pairs are looked at: seen accuracy alone
changes at the others, which adds nothing to the area, and only lowers the harmonic mean. A margin
whose images did not come repeats the point before it, which changes neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.results.bootstrap import (
    BLOCK,
    DRAWS,
    Bootstrap,
    Counts,
    Interval,
    Samples,
    beside,
    interval,
)
from compositional_prompts.troika.evaluation.czsl_metrics import METRICS, czsl_metrics
from compositional_prompts.troika.evaluation.judging import Judgements

FEWEST_DRAWS: Final = 1_000
"""Of very many images, whose curves are costly."""

MOST_WEIGHTS: Final = 200_000_000
"""Up to so many weights, draws times images, there are as many draws as of means."""


class CzslIntervals:
    """Metrics of scorers on the same images with intervals; they are paired, as draws are the same.

    Memory holds six numbers a draw of each scorer and world, and a block of weights.
    """

    def __init__(self, products: NDArray[np.int64]) -> None:
        """Measure nothing yet.

        Args:
            products: number of the product of every image, int64 ``[images]``.
        """
        images = max(len(products), 1)
        draws = min(DRAWS, max(FEWEST_DRAWS, MOST_WEIGHTS // images))
        self._bootstrap = Bootstrap(products, draws=draws)
        self._measured: dict[str, dict[str, Interval]] = {}
        self._samples: dict[str, Samples] = {}

    def metrics(
        self, name: str, judgements: Judgements, of: Sequence[str] = METRICS
    ) -> dict[str, Any]:
        """As :func:`czsl_metrics`, and beside each metric ``of`` its 95 % interval.

        Args:
            name: of the scorer and world, for :meth:`minus`.
            judgements: of the images whose products were given, in their order.
            of: which of the metrics.
        """
        whole = czsl_metrics(judgements)
        samples = czsl_samples(judgements, self._bootstrap)
        seen = judgements.seen.numpy()
        images = {"best_seen": seen, "best_unseen": ~seen}
        every = np.ones(len(seen), np.bool_)
        measured = {}
        for column, metric in enumerate(METRICS):
            value = whole[metric]
            products = self._bootstrap.products(images.get(metric, every))
            measured[metric] = interval(
                np.nan if value is None else float(value), samples[:, column], products
            )
        self._measured[name], self._samples[name] = measured, samples
        counts = {key: value for key, value in whole.items() if key not in METRICS}
        return {
            **beside({metric: measured[metric] for metric in of}),
            **(counts | {"products": self._bootstrap.products(every)} if of is METRICS else {}),
        }

    def minus(self, name: str, other: str) -> dict[str, Any]:
        """By how much a scorer's metrics exceed those of another, with intervals."""
        found = {}
        for column, metric in enumerate(METRICS):
            one, less = self._measured[name][metric], self._measured[other][metric]
            value = np.nan if one.value is None or less.value is None else one.value - less.value
            samples = self._samples[name][:, column] - self._samples[other][:, column]
            found[metric] = interval(value, samples, min(one.products, less.products))
        return beside(found)


def czsl_samples(judgements: Judgements, bootstrap: Bootstrap) -> Samples:
    """The metrics of :data:`METRICS` of every draw, float64 ``[draws, metrics]``.

    NaN where a draw lacks the images of a metric.

    Args:
        judgements: of the images, in the order of the products that ``bootstrap`` draws.
        bootstrap: draws.
    """
    seen = judgements.seen.numpy()
    seen_hit, unseen_hit = judgements.seen_hit.numpy(), judgements.unseen_hit.numpy()
    margin = judgements.margin.numpy()
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
                judgements.attribute_hit.numpy(),
                judgements.object_hit.numpy(),
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
        images = of_seen + of_unseen
        with np.errstate(divide="ignore", invalid="ignore"):
            best_seen, best_unseen = kept / of_seen, gained / of_unseen
            attributes, objects = attributes / images, objects / images
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
        return np.full((0, len(METRICS)), np.nan)
    return bootstrap.samples(figures)


def _by_margin(hits: NDArray[np.bool_], margin: NDArray[Any]) -> NDArray[np.int64]:
    """Places of the images of a mask, by ascending margin."""
    places = np.flatnonzero(hits)
    return places[np.argsort(margin[places], kind="stable")]


def _running(counts: Counts, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of the weights of images before each, and of all: ``[d, images + 1]``."""
    sums = np.zeros((len(counts), len(drawn) + 1))
    np.cumsum(np.take(counts, drawn, axis=1), axis=1, out=sums[:, 1:])
    return sums
