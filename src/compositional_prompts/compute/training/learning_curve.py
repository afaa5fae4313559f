"""The learning curve of a training run: a row an epoch, the best of them, and when to stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from compositional_prompts.files.outputs import atomic_file

SMALL = ("learning_rate", "grad_norm")
"""Figures of which 4 decimals would say little."""


@dataclass(frozen=True)
class EpochRecord:
    """One row; a model's subclass adds its own figures, None where nothing was measured.

    Attributes:
        epoch: counted from 1.
        train_loss: mean over the epoch.
    """

    epoch: int
    train_loss: float

    def __str__(self) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} {value:{'.3g' if name in SMALL else '.4f'}}"
            for name, value in asdict(self).items()
            if name != "epoch" and value is not None
        )


Record = TypeVar("Record", bound=EpochRecord)

Value = Callable[[Record], float | None]
"""What the best epoch has most of; None where it was not measured."""


def best_epoch(records: Sequence[Record], value: Value[Record]) -> int:
    """The first epoch with the highest value among those that have one; 0 for none."""
    values = {record.epoch: found for record in records if (found := value(record)) is not None}
    return max(values, key=lambda epoch: values[epoch], default=0)


def should_stop(records: Sequence[Record], value: Value[Record], patience: int | None) -> bool:
    """Whether the last epoch has a value and the best is ``patience`` epochs old."""
    if patience is None or not records or value(records[-1]) is None:
        return False
    return records[-1].epoch - best_epoch(records, value) >= patience


def spread(values: Sequence[float]) -> dict[str, float]:
    """Min, max and mean."""
    return {"min": min(values), "max": max(values), "mean": sum(values) / len(values)}


def write_curve(kind: type[Record], records: Sequence[Record], folder: Path) -> None:
    """Write a curve in the layout of DVCLive, which ``dvc plots`` and editors draw while it grows.

    ``plots/metrics/NAME.tsv`` has a row ``step<TAB>value`` for every epoch in which the figure was
    measured, and ``metrics.json`` the last value of each. Each file is replaced whole, and the
    same records give the same bytes. 4 decimals, or 4 digits of what is small.

    Args:
        kind: of the records, whose fields but the epoch are the figures.
        records: possibly none: then every figure has its head alone.
        folder: made if it is not there.
    """

    def written(name: str, value: float) -> str | int | float:
        if not isinstance(value, float):
            return value
        return f"{value:.4g}" if name in SMALL else round(value, 4)

    latest: dict[str, float] = {}
    for name in (field.name for field in fields(kind) if field.name != "epoch"):
        values = [(record.epoch, getattr(record, name)) for record in records]
        rows = [(step, written(name, value)) for step, value in values if value is not None]
        if rows:
            latest[name] = float(rows[-1][1])
        with atomic_file(folder / "plots" / "metrics" / f"{name}.tsv") as temporary:
            lines = [("step", name), *rows]
            temporary.write_text("".join(f"{step}\t{value}\n" for step, value in lines))
    if records:
        latest["step"] = records[-1].epoch
    with atomic_file(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(latest, indent=2) + "\n")
