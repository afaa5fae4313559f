"""How sure words are: the reliability diagram and the risk-coverage curve of every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compositional_prompts.reporting.drawing.charts import Chart, Series

Points = Mapping[str, Sequence[float]]
"""Columns by name."""


def reliability_chart(group: str, points: Points) -> Chart:
    """The share that is true over the probability, a point a bin, with its 95 % interval.

    Args:
        group: an attribute group.
        points: ``probability``, ``accuracy``, ``low``, ``high``, rising; maybe none.
    """
    ends = list(zip(points["low"], points["high"], strict=True))
    line = Series("true, with 95 % interval", points["accuracy"], points["probability"], ends)
    return Chart(
        f"reliability_{_slug(group)}",
        f"Reliability of {_words(group)}",
        "share that is true",
        (),
        [line] if ends else [],
        x_label="probability of the word",
        diagonal="as often true as probable",
    )


def risk_coverage_chart(
    group: str, points: Points, written: tuple[float, float] | None = None
) -> Chart:
    """The share that is wrong of the words kept, the surest first, over how many are kept.

    Args:
        group: an attribute group.
        points: ``coverage``, ``risk``, rising in coverage; maybe none.
        written: coverage and risk of the words that are written; None where there are none.
    """
    lines = []
    if points["risk"]:
        lines = [Series("the surest words", points["risk"], points["coverage"])]
        if written is not None:
            lines.append(Series("words written", [written[1]], [written[0]]))
    return Chart(
        f"risk_coverage_{_slug(group)}",
        f"Risk and coverage of {_words(group)}",
        "risk: share of them that is wrong",
        (),
        lines,
        x_label="coverage: share of photos with a word",
    )


def _slug(group: str) -> str:
    return group.replace(" ", "_")


def _words(group: str) -> str:
    return group.replace("_", " ")
