"""What the reference implementations of caption metrics score 200 pairs, as recorded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "scoring/caption_metrics/reference_scores.json"


@cache
def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return rows


def reference_column(name: str) -> list[Any]:
    """A column: ``caption``, ``reference``, or the values of a metric."""
    return [row[name] for row in _rows()]
