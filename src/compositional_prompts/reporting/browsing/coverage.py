"""How much is right of the words that a threshold would keep: coverage against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.files.tables import read_columns
from compositional_prompts.reporting.browsing.said_words import same_word

_STEPS = 20


@dataclass(frozen=True, slots=True)
class CoverageCurve:
    """Photos with truth, the surest words first, cut at every twentieth of them.

    Attributes:
        coverage: share of the photos whose best word is kept, rising to 1.
        thresholds: the cosine that a word has at least, to be kept.
        accuracy: share of the kept words that are true.
        photos: how many have truth.
    """

    coverage: Sequence[float]
    thresholds: Sequence[float]
    accuracy: Sequence[float]
    photos: int


def coverage_curves(
    prompts: Path, truth: Path, groups: Sequence[str]
) -> Mapping[str, CoverageCurve]:
    """The curve of every group with any truth, from ``enhanced.parquet`` and ``truth.parquet``.

    Raises:
        MissingOutputError, SchemaError: ``truth`` is missing or not as declared.
    """
    columns = [f"{group}_{name}" for group in groups for name in ("best", "score")]
    table = pl.DataFrame(read_columns(prompts, ["image_id", *columns]))
    known = read_truth(truth, table["image_id"].to_arrow(), groups)
    curves = {}
    for group in groups:
        rows = [row for row, words in enumerate(known[group]) if words]
        if not rows:
            continue
        best = table[f"{group}_best"].to_list()
        right = np.array(
            [any(same_word(best[row], one) for one in known[group][row]) for row in rows]
        )
        curves[group] = curve(table[f"{group}_score"].to_numpy()[rows], right)
    return curves


def curve(scores: np.ndarray, right: np.ndarray) -> CoverageCurve:
    """The curve of float ``[n]`` scores and bool ``[n]``, whether each word is true; n is not 0.

    Photos of one score are kept or dropped together, as by a threshold.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    true = np.cumsum(right[order])
    wanted = np.unique(np.ceil(np.arange(1, _STEPS + 1) * len(scores) / _STEPS).astype(int))
    # The last photo of the same score: a threshold cannot part them.
    kept = np.unique(np.searchsorted(-ordered, -ordered[wanted - 1], side="right"))
    return CoverageCurve(
        coverage=[float(n / len(scores)) for n in kept],
        thresholds=[float(ordered[n - 1]) for n in kept],
        accuracy=[float(true[n - 1] / n) for n in kept],
        photos=len(scores),
    )
