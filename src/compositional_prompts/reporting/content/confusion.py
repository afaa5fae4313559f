"""Confusion tables that stay readable however many classes there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

OTHER = "(other)"
LARGEST = 20


@dataclass(frozen=True, slots=True)
class ConfusionTable:
    """Images by true class (rows) and predicted class (columns).

    ``counts[i][j]`` are images of ``truths[i]`` called ``predictions[j]``; ``shares`` are the same
    divided by their row's sum. ``merged`` is the number of classes that stand together as "other".
    """

    truths: list[str]
    predictions: list[str]
    counts: list[list[int]]
    shares: list[list[float]]
    merged: int


def tabulate(pairs: Mapping[tuple[str, str], int], largest: int = LARGEST) -> ConfusionTable:
    """Tabulate ``(truth, predicted) -> images``.

    The ``largest`` most frequent classes (by images that have or are given them) keep their names
    and stand in that order, on both sides alike; the rest are merged into one class, the last.
    """
    frequency: Counter[str] = Counter()
    for (truth, predicted), images in pairs.items():
        frequency[truth] += images
        frequency[predicted] += images
    ordered = sorted(frequency, key=lambda name: (-frequency[name], name))
    named = ordered[:largest]
    merged = len(ordered) - len(named)
    classes = [*named, OTHER] if merged else named
    column = {name: index for index, name in enumerate(named)}
    last = len(named)
    grid = [[0] * len(classes) for _ in classes]
    for (truth, predicted), images in pairs.items():
        grid[column.get(truth, last)][column.get(predicted, last)] += images
    rows = [i for i in range(len(classes)) if sum(grid[i])]
    columns = [j for j in range(len(classes)) if sum(row[j] for row in grid)]
    counts = [[grid[i][j] for j in columns] for i in rows]
    return ConfusionTable(
        truths=[classes[i] for i in rows],
        predictions=[classes[j] for j in columns],
        counts=counts,
        shares=[[images / sum(row) for images in row] for row in counts],
        merged=merged,
    )
