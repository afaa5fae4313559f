"""Intervals of compositional zero-shot metrics, and of differences of two scorers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.results.bootstrap import Interval, Samples, beside, interval
from compositional_prompts.results.czsl_figures import (
    CZSL_FIGURES,
    JudgedImages,
    czsl_bootstrap,
    czsl_figures,
)
from compositional_prompts.troika.evaluation.czsl_metrics import czsl_metrics
from compositional_prompts.troika.evaluation.judging import Judgements


class CzslIntervals:
    """Metrics of scorers on the same images with intervals; they are paired, as draws are the same.

    Memory holds six numbers a draw of each scorer and world, 12 bytes an image of each, and a block
    of weights.

    Attributes:
        images: how they were judged, by the name of scorer and world.
    """

    def __init__(self, products: NDArray[np.int64]) -> None:
        """Measure nothing yet.

        Args:
            products: number of the product of every image, int64 ``[images]``.
        """
        self._bootstrap = czsl_bootstrap(products)
        self._measured: dict[str, dict[str, Interval]] = {}
        self._samples: dict[str, Samples] = {}
        self.images: dict[str, JudgedImages] = {}

    def metrics(
        self, name: str, judgements: Judgements, of: Sequence[str] = CZSL_FIGURES
    ) -> dict[str, Any]:
        """As :func:`czsl_metrics`, and beside each metric ``of`` its 95 % interval.

        Args:
            name: of the scorer and world, for :meth:`minus`.
            judgements: of the images whose products were given, in their order.
            of: which of the metrics.
        """
        whole = czsl_metrics(judgements)
        self.images[name] = judged_images(judgements)
        _, samples = czsl_figures(self.images[name], self._bootstrap)
        seen = judgements.seen.numpy()
        images = {"best_seen": seen, "best_unseen": ~seen}
        every = np.ones(len(seen), np.bool_)
        measured = {}
        for column, metric in enumerate(CZSL_FIGURES):
            value = whole[metric]
            products = self._bootstrap.products(images.get(metric, every))
            measured[metric] = interval(
                np.nan if value is None else float(value), samples[:, column], products
            )
        self._measured[name], self._samples[name] = measured, samples
        counts = {key: value for key, value in whole.items() if key not in CZSL_FIGURES}
        return {
            **beside({metric: measured[metric] for metric in of}),
            **(
                counts | {"products": self._bootstrap.products(every)} if of is CZSL_FIGURES else {}
            ),
        }

    def minus(self, name: str, other: str) -> dict[str, Any]:
        """By how much a scorer's metrics exceed those of another, with intervals."""
        found = {}
        for column, metric in enumerate(CZSL_FIGURES):
            one, less = self._measured[name][metric], self._measured[other][metric]
            value = np.nan if one.value is None or less.value is None else one.value - less.value
            samples = self._samples[name][:, column] - self._samples[other][:, column]
            found[metric] = interval(value, samples, min(one.products, less.products))
        return beside(found)


def judged_images(judgements: Judgements) -> JudgedImages:
    """What of judgements the metrics are made of."""
    return JudgedImages(
        seen=judgements.seen.numpy(),
        hit=(judgements.seen_hit | judgements.unseen_hit).numpy(),
        margin=judgements.margin.double().numpy(),
        attribute_hit=judgements.attribute_hit.numpy(),
        object_hit=judgements.object_hit.numpy(),
    )
