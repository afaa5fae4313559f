"""Curves as stages write them, in DVCLive's layout, read back as rows."""

from __future__ import annotations

import csv
from pathlib import Path


def curve_rows(folder: Path) -> list[dict[str, str]]:
    """A row an epoch, with ``epoch`` and every figure; "" where one was not measured."""
    figures: dict[str, dict[str, str]] = {}
    for path in sorted((folder / "plots" / "metrics").glob("*.tsv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        figures[path.stem] = {row["step"]: row[path.stem] for row in rows}
    epochs = sorted({step for values in figures.values() for step in values}, key=int)
    return [
        {"epoch": epoch, **{name: values.get(epoch, "") for name, values in figures.items()}}
        for epoch in epochs
    ]


def curve_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a curve."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
