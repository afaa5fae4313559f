"""What the last run of every stage took, as a table for a terminal.

The files that it reads are written by :func:`~compositional_prompts.pipeline.stage.run_stage`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compositional_prompts.files.outputs import DamagedOutputError, MissingOutputError
from compositional_prompts.pipeline.dvc_file import DVC_FILE, stage_paths
from compositional_prompts.pipeline.stage import TIMING

_NUMBERS = ("seconds", "rows", "rows_per_second", "peak_memory_mib", "peak_worker_memory_mib")
_HEAD = (
    "stage",
    "time",
    "share",
    "rows",
    "computed",
    "rows/s",
    "memory",
    "a worker",
    "GPU",
    "computed in",
)


def timing_table(folder: Path = TIMING, dvc_file: Path = DVC_FILE) -> str:
    """Wall time, rows and peak memory of the last run of every stage, in the order of ``dvc.yaml``.

    Columns that are empty for all stages are left out.

    Raises:
        MissingOutputError: no stage has run here.
        DamagedOutputError: a file of ``folder`` is not as a stage writes it.
        PipelineError: ``dvc.yaml`` is not there.
    """
    records = [_read(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise MissingOutputError(
            f"{folder}/ holds no timing: no stage has run in this folder; run `dvc repro`."
        )
    names = list(stage_paths(dvc_file))
    records.sort(key=lambda record: (_position(record["stage"], names), record["stage"]))
    total = sum(record["seconds"] for record in records)
    rows = [_HEAD, *(_row(record, total) for record in records)]
    rows.append(("together", duration(total), *("" for _ in _HEAD[2:])))
    return _aligned(rows)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if (
            isinstance(record["stage"], str)
            and all(_is_measured(record[key]) for key in _NUMBERS)
            and all(
                _is_measured(record.get(key) or 0) for key in ("computed", "peak_device_memory_mib")
            )
            and isinstance(record.get("precision") or "", str)
        ):
            return dict(record)
    except (ValueError, KeyError, TypeError, OverflowError):
        pass
    raise DamagedOutputError(
        f"{path} must name stage and {', '.join(_NUMBERS)}, as a stage writes them: delete it, "
        "or run its stage again.",
        path,
    )


def _is_measured(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= 0


def _position(stage: str, names: Sequence[str]) -> int:
    """Where a stage stands; ``infer-base`` is an item of ``infer``, and strangers are last."""
    owner = stage if stage in names else stage.rpartition("-")[0]
    return names.index(owner) if owner in names else len(names)


def _row(record: dict[str, Any], total: float) -> tuple[str, ...]:
    device = record.get("peak_device_memory_mib")
    workers = record["peak_worker_memory_mib"]
    computed = record.get("computed")
    return (
        record["stage"],
        duration(record["seconds"]),
        f"{record['seconds'] / total:.0%}" if total else "",
        f"{record['rows']:,}",
        "" if computed is None else f"{computed:,}",
        f"{record['rows_per_second']:,.0f}",
        mebibytes(record["peak_memory_mib"]),
        mebibytes(workers) if workers else "",
        "" if device is None else mebibytes(device),
        record.get("precision") or "",
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    words = (0, len(columns) - 1 if columns[-1][0] == _HEAD[-1] else -1)
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    )


def duration(seconds: float) -> str:
    """Seconds as ``4.2 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def mebibytes(value: float) -> str:
    """Memory in MiB, with thousands separators."""
    return f"{value:,.0f} MiB"
