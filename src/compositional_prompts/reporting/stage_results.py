"""Reading what the other stages left behind: metrics, curves and confusions.

A file that is not there is an error. Single metrics may be null
or absent where a data set gives nothing to measure; they read as None, and so does a point of a
curve that is not finite.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.records.spreadsheet_cells import plain_text
from compositional_prompts.results.stage_metrics import (
    Metrics,
    ReportInputError,
    number,
    read_metrics,
)

Confusion = Mapping[tuple[str, str], int]
Curve = Mapping[str, Sequence[float | None]]
Points = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class StageResults:
    """Everything under ``metrics/``; curves are columns by name, one entry an epoch."""

    download: Metrics
    split: Metrics
    check_data: Metrics
    troika_train: Metrics
    troika: Metrics
    word_scorer: Metrics
    enhance: Metrics
    stability: Metrics
    drift: Metrics
    finetune: Metrics
    scores: Metrics
    recommend: Metrics
    losses: Curve
    troika_curve: Curve
    confusions: Mapping[str, Confusion]
    reliability: Mapping[str, Points]
    risk_coverage: Mapping[str, Points]

    @property
    def warnings(self) -> Sequence[str]:
        """What stands in the way of using the texts, a sentence each; of the texts first.

        Raises:
            ReportInputError: a file's warnings are no list of sentences.
        """
        return [
            *_sentences(self.troika_train, "troika_train.json"),
            *_sentences(self.finetune, "finetune.json"),
            *_sentences(self.recommend, "recommend.json"),
            *_sentences(self.drift, "drift.json"),
            *_sentences(self.check_data, "check_data.json"),
            *(
                sentence
                for group in self.word_scorer.values()
                for sentence in _sentences(group.get("calibration", {}), "word_scorer.json")
            ),
        ]


def _sentences(metrics: Metrics, name: str) -> list[str]:
    found = metrics.get("warnings", [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ReportInputError(
            f"metric warnings of {name} must be a list of sentences, found {found!r}."
        )
    return found


def read_results(metrics: Path) -> StageResults:
    """Read the metrics directory.

    Raises:
        MissingOutputError: a file is missing.
        ReportInputError: one is malformed, with what was found and what was expected.
    """
    enhance = read_metrics(metrics / "enhance.json")
    return StageResults(
        download=read_metrics(metrics / "download.json"),
        split=read_metrics(metrics / "split.json"),
        check_data=read_metrics(metrics / "check_data.json"),
        troika_train=read_metrics(metrics / "troika_train.json"),
        troika=read_metrics(metrics / "troika.json"),
        word_scorer=read_metrics(metrics / "word_scorer.json"),
        enhance=enhance,
        stability=read_metrics(metrics / "stability.json"),
        drift=read_metrics(metrics / "drift.json"),
        finetune=read_metrics(metrics / "finetune.json"),
        scores=read_metrics(metrics / "scores.json"),
        recommend=read_metrics(metrics / "recommend.json"),
        losses=_read_curve(
            metrics / "curves/finetune/plots/metrics",
            (
                *("train_loss", "val_loss"),
                *("train_token_accuracy", "val_token_accuracy", "val_bleu"),
            ),
        ),
        troika_curve=_read_curve(
            metrics / "curves/troika_train/plots/metrics",
            ("train_loss", "val_auc", "val_hm", "val_object_accuracy"),
        ),
        confusions=_read_confusions(metrics, enhance),
        reliability={
            group: _read_points(
                metrics / f"plots/reliability/{group}.csv",
                ("probability", "accuracy", "low", "high"),
            )
            for group in enhance
        },
        risk_coverage={
            group: _read_points(metrics / f"plots/risk_coverage/{group}.csv", ("coverage", "risk"))
            for group in enhance
        },
    )


def _rows(
    path: Path, columns: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of every row of a table that has at least these columns."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            found = reader.fieldnames or []
            missing = [column for column in columns if column not in found]
            if missing:
                raise ReportInputError(
                    f"{path}: column {missing[0]!r} is missing; found "
                    f"{', '.join(found) or 'nothing'}.",
                    path,
                )
            for row in reader:
                cells = {key: plain_text(value or "") for key, value in row.items() if key}
                yield reader.line_num, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise ReportInputError(f"{path}, line {reader.line_num}: {error}.", path) from error


def _read_curve(folder: Path, figures: Sequence[str]) -> Curve:
    """Figures by name, and the epochs that any of them was measured in; None where one was not."""
    measured = {name: _read_figure(folder / f"{name}.tsv", name) for name in figures}
    epochs = sorted({epoch for values in measured.values() for epoch in values})
    curve: dict[str, list[float | None]] = {"epoch": list(epochs)}
    return curve | {
        name: [values.get(epoch) for epoch in epochs] for name, values in measured.items()
    }


def _read_figure(path: Path, name: str) -> dict[float, float | None]:
    """The values of a figure by epoch; None for those that are not finite."""
    require_outputs(path)
    figure = {}
    for line, row in _rows(path, ("step", name), delimiter="\t"):
        try:
            step, value = float(row["step"]), float(row[name])
        except ValueError as error:
            raise ReportInputError(
                f"{path}, line {line}: expected two numbers, found {row['step']!r} and "
                f"{row[name]!r}.",
                path,
            ) from error
        figure[step] = value if math.isfinite(value) else None
    return figure


def _read_points(path: Path, columns: Sequence[str]) -> Points:
    """Columns of numbers by name; empty where the file has a header only."""
    require_outputs(path)
    points: dict[str, list[float]] = {column: [] for column in columns}
    for line, row in _rows(path, columns):
        for column, values in points.items():
            try:
                values.append(float(row[column]))
            except ValueError as error:
                raise ReportInputError(
                    f"{path}, line {line}: {column} must be a number, found {row[column]!r}.", path
                ) from error
    return points


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
