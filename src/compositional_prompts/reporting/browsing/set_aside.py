"""The images that ingestion set aside, as the page lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from compositional_prompts.files.tables import read_columns

MOST = 200
"""Images that the page lists; the table has them all."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """Rows of ``data/rejected.parquet``: image_id, path, reason; and how many there are in all."""

    rows: Sequence[tuple[str, str, str]]
    total: int


def read_set_aside(rejected: Path) -> SetAside:
    """The first images that were set aside, by reason and path.

    Raises:
        MissingOutputError: the table is not there.
    """
    table = pl.DataFrame(read_columns(rejected, ["image_id", "path", "reason"]))
    first = table.lazy().sort("reason", "path", "image_id").head(MOST).collect()
    return SetAside(list(first.iter_rows()), len(table))
