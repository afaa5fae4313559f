"""Data and scripts that stand inside a page, and nothing else that may run there."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

LISTING = Path(__file__).with_name("listing.js")
"""What every page with a list of photos begins with."""

PHOTOS = Path(__file__).with_name("photos.js")
"""The report's own part."""


def as_json(value: Any) -> Markup:
    """``value`` as JSON for a ``<script type="application/json">``.

    No text in it can end the element or open another, for it has no ``<``.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot carry.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def script(files: Sequence[Path]) -> Markup:
    """These scripts one after another, as one that leaves no name behind."""
    parts = [file.read_text(encoding="utf-8") for file in files]
    return Markup('"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n")


def content_policy(text: Markup) -> str:
    """A Content-Security-Policy that lets this script run and no other, and asks nobody for data.

    ``text`` is all that stands in the ``<script>``.
    """
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
