"""Reading what the other stages left behind: metrics, curves, confusions and timings.

A file that is not there is an error. Single metrics may be null
or absent where a data set gives nothing to measure; they read as None, and so does a point of a
curve that is not finite.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositional_prompts.files.outputs import (
    DamagedOutputError,
    MissingOutputError,
    require_outputs,
)

Metrics = Mapping[str, Any]
Confusion = Mapping[tuple[str, str], int]
Curve = Mapping[str, Sequence[float | None]]

_REPORT = "report"


class ReportInputError(DamagedOutputError):
    """A file that the report is made from is not as its stage writes it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What a stage's run took: wall time, rows, and the peak memory of it, of its workers and, if
    it used one, on the GPU; and what it computed in, where that was chosen.
    """

    stage: str
    seconds: float
    rows: int
    rows_per_second: float | None
    peak_memory_mib: float | None
    peak_worker_memory_mib: float | None
    peak_device_memory_mib: float | None
    precision: str | None


@dataclass(frozen=True)
class StageResults:
    """Everything under ``metrics/``; curves are columns by name, one entry an epoch."""

    download: Metrics
    split: Metrics
    troika_train: Metrics
    troika: Metrics
    enhance: Metrics
    finetune: Metrics
    scores: Metrics
    recommend: Metrics
    losses: Curve
    troika_curve: Curve
    confusions: Mapping[str, Confusion]
    timings: Sequence[Timing]

    @property
    def warnings(self) -> Sequence[str]:
        """What stands in the way of using the texts, a sentence each.

        Raises:
            ReportInputError: it is not a list of sentences.
        """
        found = self.recommend.get("warnings", [])
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise ReportInputError(
                f"metric warnings of recommend.json must be a list of sentences, found {found!r}."
            )
        return found


def read_results(metrics: Path) -> StageResults:
    """Read the metrics directory.

    Raises:
        MissingOutputError: a file is missing.
        ReportInputError: one is malformed, with what was found and what was expected.
    """
    enhance = _read_json(metrics / "enhance.json")
    return StageResults(
        download=_read_json(metrics / "download.json"),
        split=_read_json(metrics / "split.json"),
        troika_train=_read_json(metrics / "troika_train.json"),
        troika=_read_json(metrics / "troika.json"),
        enhance=enhance,
        finetune=_read_json(metrics / "finetune.json"),
        scores=_read_json(metrics / "scores.json"),
        recommend=_read_json(metrics / "recommend.json"),
        losses=_read_curve(
            metrics / "plots/losses.csv",
            (
                *("epoch", "train_loss", "val_loss"),
                *("train_token_accuracy", "val_token_accuracy", "val_bleu"),
            ),
        ),
        troika_curve=_read_curve(
            metrics / "plots/troika.csv", ("epoch", "train_loss", "val_auc", "val_hm")
        ),
        confusions=_read_confusions(metrics, enhance),
        timings=_read_timings(metrics / "timing"),
    )


def number(metrics: Metrics, *keys: str) -> float | None:
    """The number at a path of keys; None where it is null or the path ends early.

    Raises:
        ReportInputError: something other than a number stands there.
    """
    value: Any = metrics
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReportInputError(f"metric {'.'.join(keys)} must be a number, found {value!r}.")
    return float(value)


def numbers(metrics: Metrics, *keys: str) -> dict[str, float]:
    """All numbers below a path of keys, nested names joined by a dot; nothing where it is null."""
    value: Any = metrics
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(_flatten(value, "")) if isinstance(value, Mapping) else {}


def _flatten(value: Metrics, prefix: str) -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{key}.")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield f"{prefix}{key}", float(item)


def _read_json(path: Path) -> Metrics:
    require_outputs(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportInputError(f"{path} is not JSON: {error}.", path) from error
    if not isinstance(document, dict):
        raise ReportInputError(
            f"{path} must hold a JSON object, found {type(document).__name__}.", path
        )
    return document


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of every row of a CSV that has at least these columns."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        found = reader.fieldnames or []
        missing = [column for column in columns if column not in found]
        if missing:
            raise ReportInputError(
                f"{path}: column {missing[0]!r} is missing; found {', '.join(found) or 'nothing'}.",
                path,
            )
        try:
            for row in reader:
                yield reader.line_num, {key: value or "" for key, value in row.items() if key}
        except (csv.Error, UnicodeDecodeError) as error:
            raise ReportInputError(f"{path}, line {reader.line_num}: {error}.", path) from error


def _read_curve(path: Path, columns: Sequence[str]) -> Curve:
    require_outputs(path)
    curve: dict[str, list[float | None]] = {column: [] for column in columns}
    for line, row in _rows(path, columns):
        for column in columns:
            text = row[column]
            try:
                value = float(text) if text else None
            except ValueError as error:
                raise ReportInputError(
                    f"{path}, line {line}: {column} must be a number or empty, found {text!r}.",
                    path,
                ) from error
            curve[column].append(value if value is None or math.isfinite(value) else None)
        if curve["epoch"][-1] is None:
            raise ReportInputError(f"{path}, line {line}: epoch is empty, expected a number.", path)
    return curve


def _read_confusions(metrics: Path, enhance: Metrics) -> dict[str, Confusion]:
    """Counts of (truth, predicted) of every group whose accuracy is known."""
    confusions: dict[str, Confusion] = {}
    for group in enhance:
        if number(enhance, group, "accuracy") is None:
            continue
        path = metrics / "plots" / "confusion" / f"{group}.csv"
        require_outputs(path)
        confusions[group] = Counter(
            (row["truth"], row["predicted"]) for _, row in _rows(path, ("truth", "predicted"))
        )
    return confusions


def _read_timings(directory: Path) -> list[Timing]:
    """One record a file; the report's own is left out, for it is that of an earlier run."""
    timings = []
    for path in sorted(directory.glob("*.json")):
        record = _read_json(path)
        stage = record.get("stage")
        seconds, rows = number(record, "seconds"), number(record, "rows")
        if not isinstance(stage, str) or seconds is None or rows is None:
            raise ReportInputError(
                f"{path} must name stage, seconds and rows, found {record!r}.", path
            )
        if stage == _REPORT:
            continue
        timings.append(
            Timing(
                stage=stage,
                seconds=seconds,
                rows=int(rows),
                rows_per_second=number(record, "rows_per_second"),
                peak_memory_mib=number(record, "peak_memory_mib"),
                peak_worker_memory_mib=number(record, "peak_worker_memory_mib"),
                peak_device_memory_mib=number(record, "peak_device_memory_mib"),
                precision=record.get("precision"),
            )
        )
    if not timings:
        raise MissingOutputError(f"{directory} holds no timing of any stage.", directory)
    return timings
