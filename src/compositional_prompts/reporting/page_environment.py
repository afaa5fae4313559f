"""Templates and style of the pages; what is not marked as markup is escaped."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from compositional_prompts.reporting.content.formats import FILTERS

_FOLDER = Path(__file__).parent


def page_environment() -> Environment:
    """What renders the templates of this folder, the filters of numbers and names among it."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


def page_style() -> Markup:
    """The style sheet that all pages share."""
    return Markup((_FOLDER / "page.css").read_text(encoding="utf-8"))
