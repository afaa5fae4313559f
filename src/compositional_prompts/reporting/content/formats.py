"""How numbers read on the page; a value that is not known is an en dash."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

UNKNOWN = "\N{EN DASH}"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def score(value: float | None) -> str:
    """A score from 0 to 1 with three decimals; losses too."""
    return UNKNOWN if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share from 0 to 1 as a percentage with one decimal."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


Bounds = tuple[float, float] | None


def score_between(value: float | None, bounds: Bounds) -> str:
    """A score and its interval: ``0.823 (0.80 to 0.84)``."""
    if value is None or bounds is None:
        return score(value)
    return f"{score(value)} ({bounds[0]:.2f} to {bounds[1]:.2f})"


def percent_between(value: float | None, bounds: Bounds) -> str:
    """A share and its interval: ``50.6 % (44 to 57)``."""
    if value is None or bounds is None:
        return percent(value)
    return f"{percent(value)} ({100 * bounds[0]:.0f} to {100 * bounds[1]:.0f})"


def small_percent(value: float | None) -> str:
    """A share that may be far below one per cent, with four significant digits."""
    return UNKNOWN if value is None else f"{100 * value:.4g} %"


def words(name: str) -> str:
    """A metric's key as words: ``missing_label`` reads ``missing label``."""
    return name.replace("_", " ")


def breakable(text: str) -> Markup:
    """``text``, escaped, with places to break a line after dots, underscores and hyphens."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[._-])(?=\S)", text))


FILTERS = {
    function.__name__: function
    for function in (count, score, percent, small_percent, words, breakable)
}
"""The functions above by the names that the templates call them."""
