"""Means of every metric of every captioner, with intervals, and differences of captioners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.results.bootstrap import Bootstrap, Column, FigurePath, nested
from compositional_prompts.scoring.scoring_inputs import FINETUNED

MINUS = "minus"
"""Below it stand, by the other captioner, what the fine-tuned one has more on the same images."""


def caption_means(
    columns: Mapping[str, Mapping[FigurePath, Column]], products: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Every mean with its interval, and of the fine-tuned captioner every difference with its.

    Args:
        columns: by captioner, of every figure of ``metrics/scores.json`` its values; the figures
            of all captioners are known of the same images.
        products: number of the product of every image, int64 ``[n]``.

    Returns:
        By captioner, as ``metrics/scores.json`` has them, and ``products``, how many there are.
    """
    bootstrap = Bootstrap(products)
    own = {
        (captioner, *path): column
        for captioner, figures in columns.items()
        for path, column in figures.items()
    }
    differences = {
        (FINETUNED, MINUS, other, *path): _difference(columns[FINETUNED][path], column)
        for other in columns
        if other != FINETUNED and FINETUNED in columns
        for path, column in columns[other].items()
    }
    means = nested(bootstrap.named({**own, **differences}))
    known = np.ones(len(products), np.bool_)
    return {
        captioner: {"products": bootstrap.products(known), **values}
        for captioner, values in means.items()
    }


def _difference(of: Column, less: Column) -> Column:
    return np.asarray(of[0], np.float64) - np.asarray(less[0], np.float64), of[1]
