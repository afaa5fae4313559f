"""Line charts as SVG: the same bytes for the same numbers.

Matplotlib is imported only when a chart is drawn.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositional_prompts.files.outputs import atomic_file

_INK, _MUTED, _RULE = "#1f2430", "#5b6270", "#d9dce2"
_SERIES = ("#1d5fa8", "#b8500f", "#2b7a4b")
# Inside the page a colour is a variable of its style sheet, so that charts follow light and dark.
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _SERIES[0]: "var(--series-1)",
    _SERIES[1]: "var(--series-2)",
    _SERIES[2]: "var(--series-3)",
}
_MARKERS = ("o", "s", "^")
MOST_MARKED = 60
"""Points of a line up to which each has a marker; of more they would run into one another."""
_DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)))


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    ``values`` has one entry an epoch, None where nothing was measured; or one for each of ``x``,
    where the line has places of its own. ``intervals`` has the ends of the interval of every
    value, drawn as a bar.
    """

    name: str
    values: Sequence[float | None]
    x: Sequence[float] | None = None
    intervals: Sequence[tuple[float, float]] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart, over epochs unless ``x_label`` says over what.

    ``name`` is its file name without suffix; ``diagonal``, where it is not empty, the name of the
    line on which both axes, which are shares then, have the same value.
    """

    name: str
    title: str
    y_label: str
    epochs: Sequence[float]
    series: Sequence[Series]
    x_label: str = "epoch"
    diagonal: str = ""

    @property
    def drawable(self) -> bool:
        """Whether there is any point to draw."""
        return any(value is not None for line in self.series for value in line.values)

    @property
    def description(self) -> str:
        """The chart in a sentence, for readers who cannot see it."""
        parts = []
        for line in self.series:
            known = [value for value in line.values if value is not None]
            if known:
                parts.append(f"{line.name} goes from {known[0]:.3f} to {known[-1]:.3f}")
        over = f"{len(self.epochs)} epochs" if self.epochs else self.x_label
        return f"{self.title}, over {over}: " + "; ".join(parts) + "."


def render(chart: Chart) -> str:
    """The chart as a standalone SVG document."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": chart.name,
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": _INK,
        "axes.edgecolor": _RULE,
        "axes.labelcolor": _MUTED,
        "xtick.color": _RULE,
        "ytick.color": _RULE,
        "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _MUTED,
        "grid.color": _RULE,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if chart.diagonal:
            axes.plot(
                [0, 1], [0, 1], label=chart.diagonal, color=_MUTED, linewidth=1, dashes=(1, 2)
            )
        for index, line in enumerate(chart.series):
            values = [math.nan if value is None else value for value in line.values]
            places = chart.epochs if line.x is None else line.x
            color = _SERIES[index % len(_SERIES)]
            if line.intervals is not None:
                axes.vlines(places, *zip(*line.intervals, strict=True), color=color, linewidth=0.8)
            axes.plot(
                places,
                values,
                label=line.name,
                color=color,
                # Shifted by one with every round of colours, so that nine lines differ.
                linestyle=_DASHES[(index + index // len(_SERIES)) % len(_DASHES)],
                marker=_MARKERS[index % len(_MARKERS)] if len(values) <= MOST_MARKED else "",
                markersize=3.2,
                linewidth=1.7,
            )
        axes.set_title(chart.title, loc="left", fontsize=10, color=_INK, pad=10)
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        if chart.epochs:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.margins(x=0.03)
        axes.legend(frameon=False, fontsize=8.5, handlelength=2.6)
        buffer = io.StringIO()
        # The date and the creator's version would change the file when the numbers do not.
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=empty, transparent=True)
    return buffer.getvalue()


def write_chart(svg: str, path: Path) -> None:
    """Write a rendered chart on a white ground, so that it reads on any page that shows it."""
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    document = re.sub(r"(<svg\b[^>]*>)", lambda match: match[0] + ground, svg, count=1)
    with atomic_file(path) as temporary:
        temporary.write_text(document, encoding="utf-8")


def inline(chart: Chart, svg: str) -> str:
    """A rendered chart to stand inside the page: colours follow the page's, ids are its own.

    The result is markup; every text in it was escaped by Matplotlib.
    """
    body = svg[svg.index("<svg") :]
    # A style element inside a page would hold for the whole page.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    opening = re.compile(r"<svg\b[^>]*>")
    view_box = re.search(r'viewBox="[^"]*"', body)
    if view_box is None:
        raise ValueError(f"chart {chart.name!r} has no viewBox: Matplotlib's SVG changed.")
    body = opening.sub(f'<svg {view_box[0]} aria-hidden="true" focusable="false">', body, count=1)
    for attribute in (r'\bid="', r'href="#', r"url\(#"):
        body = re.sub(f"({attribute})", rf"\g<1>{chart.name}-", body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    return body
