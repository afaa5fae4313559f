"""The spread of headline figures over runs that differ in their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositional_prompts.pipeline.yaml_file import read_yaml
from compositional_prompts.reporting.comparing.revision_files import (
    open_revision,
)
from compositional_prompts.results.stage_metrics import read_metrics

SUMMARY = Path("metrics/summary.json")
PARAMS = Path("params.yaml")


@dataclass(frozen=True, slots=True)
class FigureSpread:
    """One figure over runs.

    Attributes:
        name: keys of ``metrics/summary.json`` with dots between.
        values: of the runs that have it, one at least.
    """

    name: str
    values: Sequence[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation, by n - 1; None of one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, slots=True)
class Spread:
    """What several runs found.

    Attributes:
        runs: how many.
        figures: in the order of the first run's.
        varied: of every parameter that is not the same in all runs, what it is in each.
    """

    runs: int
    figures: Sequence[FigureSpread]
    varied: Mapping[str, Sequence[Any]]

    @property
    def beside_seeds(self) -> list[str]:
        """Varied parameters that are no seed: with these it is no spread over seeds alone."""
        return [name for name in self.varied if name.split(".")[-1] != "seed"]


def spread_over(revisions: Sequence[str], root: Path = Path()) -> Spread:
    """Collect the headline figures of runs.

    Args:
        revisions: commits, branches, tags, experiments, or ``workspace``.
        root: of the project.

    Raises:
        RevisionError: there is no such revision, or it has no figures.
        ValueError: fewer than two are given, or one twice.
    """
    if len(revisions) < 2:
        raise ValueError("one run has no spread: name two or more.")
    twice = [name for name in revisions if revisions.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice: a run counts once.")
    figures: dict[str, list[float]] = {}
    parameters: list[dict[str, Any]] = []
    for revision in revisions:
        with open_revision(root, revision, [SUMMARY], tracked=[PARAMS]) as folder:
            for name, value in leaves(read_metrics(folder / SUMMARY)):
                if isinstance(value, int | float) and not isinstance(value, bool):
                    figures.setdefault(name, []).append(float(value))
            parameters.append(dict(leaves(read_yaml(folder / PARAMS))))
    names = dict.fromkeys(name for one in parameters for name in one)
    values = {name: [one.get(name) for one in parameters] for name in names}
    return Spread(
        runs=len(revisions),
        figures=[FigureSpread(name, found) for name, found in figures.items()],
        varied={name: found for name, found in values.items() if found != found[:1] * len(found)},
    )


def leaves(document: Mapping[str, Any], *keys: str) -> Iterator[tuple[str, Any]]:
    """The values of a nested mapping, each with its keys, dots between; a list is a value."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from leaves(value, *keys, str(key))
        else:
            yield ".".join((*keys, str(key))), value


def as_table(spread: Spread) -> str:
    """The spread as text, a line a figure."""
    varied = "; ".join(
        f"{name} = {', '.join(map(str, found))}" for name, found in spread.varied.items()
    )
    width = max((len(figure.name) for figure in spread.figures), default=0)
    lines = [
        f"{spread.runs} runs; {varied or 'no parameter differs'}",
        "",
        f"{'':{width}}    mean      sd   least    most  runs",
    ]
    for figure in spread.figures:
        deviation = "-" if figure.deviation is None else f"{figure.deviation:.4f}"
        lines.append(
            f"{figure.name:{width}}  {figure.mean:6.4f}  {deviation:>6}  {min(figure.values):6.4f}"
            f"  {max(figure.values):6.4f}  {len(figure.values):4}"
        )
    return "\n".join(lines)
