"""What fine-tuning says of itself: sums over tokens, a row an epoch, the metrics of the whole."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from compositional_prompts.files.outputs import atomic_file

Metric = Literal["val_loss", "val_token_accuracy", "val_bleu"]


@dataclass(frozen=True)
class EpochRecord:
    """One row of the learning curve; losses in nats a token, accuracies of teacher-forced tokens.

    Training figures are running means over the epoch, with dropout and label smoothing;
    validation is without both.

    Attributes:
        val_bleu: mean sentence BLEU of greedy captions; None where it was not measured.
        learning_rate: of the epoch's last step.
        grad_norm: mean over the epoch's steps of the gradient's norm, before it is cut.
    """

    epoch: int
    train_loss: float
    val_loss: float
    train_token_accuracy: float
    val_token_accuracy: float
    val_bleu: float | None
    learning_rate: float
    grad_norm: float

    def check_finite(self) -> None:
        """Raises FloatingPointError if a loss is not a number any more."""
        for name in ("train_loss", "val_loss"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} in epoch {self.epoch}: lower finetune.learning_rate, or "
                    "set finetune.max_grad_norm or warmup_ratio."
                )


class Totals:
    """Sums over tokens, so that means do not depend on how captions fall into batches.

    They stay on the device until they are asked for: reading one waits for all that was computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        """Loss, right tokens, labelled tokens, gradient norms."""

    def add(self, loss: Tensor, correct: Tensor, tokens: int) -> None:
        self.sums[0] += loss
        self.sums[1] += correct
        self.sums[2] += tokens

    def add_norm(self, norm: Tensor) -> None:
        self.sums[3] += norm


def best_epoch(history: Sequence[EpochRecord], metric: Metric) -> int:
    """The first epoch with the best value of ``metric`` among those that have one; 0 for none."""
    sign = 1 if metric == "val_loss" else -1
    values = {
        record.epoch: sign * value
        for record in history
        if (value := getattr(record, metric)) is not None
    }
    return min(values, key=lambda epoch: values[epoch], default=0)


def should_stop(history: Sequence[EpochRecord], metric: Metric, patience: int | None) -> bool:
    """Whether the last epoch has a value of ``metric`` and the best is ``patience`` epochs old."""
    if patience is None or not history or getattr(history[-1], metric) is None:
        return False
    return history[-1].epoch - best_epoch(history, metric) >= patience


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "max": max(values), "mean": sum(values) / len(values)}


def summarise(history: Sequence[EpochRecord], metric: Metric) -> dict[str, Any]:
    """Min, max and mean of the epochs' losses, epochs run, the best epoch and its figures.

    ``val_bleu`` is the best that was measured, and left out where none was.
    """
    best = best_epoch(history, metric)
    measured = [record.val_bleu for record in history if record.val_bleu is not None]
    return {
        "train_loss": _spread([record.train_loss for record in history]),
        "val_loss": _spread([record.val_loss for record in history]),
        "epochs": len(history),
        "best_metric": metric,
        "best_epoch": best,
        "val_token_accuracy": history[best - 1].val_token_accuracy,
        **({"val_bleu": max(measured)} if measured else {}),
    }


def write_curve(history: Sequence[EpochRecord], path: Path) -> None:
    """Write the learning curve as CSV: 4 decimals, or 4 digits of what may be small."""

    def written(name: str, value: Any) -> Any:
        if not isinstance(value, float):
            return value  # a missing value becomes an empty cell
        return f"{value:.4g}" if name in ("learning_rate", "grad_norm") else round(value, 4)

    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(EpochRecord)])
        writer.writeheader()
        for record in history:
            writer.writerow({key: written(key, value) for key, value in asdict(record).items()})
