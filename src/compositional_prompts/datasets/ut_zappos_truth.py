"""What UT-Zap50K itself says of its shoes: ``meta-data.csv``.

Yu and Grauman, "Fine-grained visual comparisons with local learning", CVPR 2014. One row a photo,
by its CID: ``100627-72`` is product 100627 in colour 72, whose photo is ``100627.72.jpg``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

TRUTH_BY_COLUMN: Final = {
    "Material": "material",
    "Closure": "closure",
    "HeelHeight": "heel_height",
    "Gender": "gender",
}
"""Columns of the file, and the attribute group that each is the truth of."""

_ID_COLUMN: Final = "CID"


class TruthError(ValueError):
    """The file is not as UT-Zap50K publishes it."""


def photo_id(path: str) -> str | None:
    """The CID of a photo by its path (``.../100627.72.jpg``), or None for another kind of name."""
    parts = PurePosixPath(path).name.split(".")
    return f"{parts[0]}-{parts[1]}" if len(parts) == 3 else None


def read_truth(content: bytes, source: str) -> dict[str, Mapping[str, str]]:
    """The truth of every photo, by CID: the file's cells, as a row of the catalog has them.

    Args:
        content: the file: UTF-8, commas, a header with CID and the columns of
            :data:`TRUTH_BY_COLUMN`, and any others.
        source: its name, for messages.

    Raises:
        TruthError: naming the line and what is wrong with it.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TruthError(f"{source}: byte {error.start} is not UTF-8.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    truth: dict[str, Mapping[str, str]] = {}
    try:
        header = reader.fieldnames or []
        missing = [name for name in (_ID_COLUMN, *TRUTH_BY_COLUMN) if name not in header]
        if missing:
            raise TruthError(
                f"{source}, line 1: no column {missing[0]!r}; found {', '.join(header) or 'none'}."
            )
        for row in reader:
            place = f"{source}, line {reader.line_num}"
            if None in row or None in row.values():
                raise TruthError(f"{place}: not {len(header)} cells as in the header.")
            values = {group: row[column] for column, group in TRUTH_BY_COLUMN.items()}
            if truth.setdefault(row[_ID_COLUMN], values) != values:
                raise TruthError(f"{place}: {row[_ID_COLUMN]!r} stood before with other values.")
    except csv.Error as error:
        line = reader.reader.line_num  # the other is not yet there
        raise TruthError(f"{source}, line {line}: not CSV: {error}.") from error
    return truth
