"""What fine-tuning says of itself: sums over tokens, a row an epoch, the metrics of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from compositional_prompts.compute.training.learning_curve import EpochRecord, spread

LEAST_ACCURACY = 0.05
"""Share of right tokens below which nothing was learnt: what always says the most frequent token
has as many."""

Metric = Literal["val_loss", "val_token_accuracy", "val_bleu"]


@dataclass(frozen=True)
class CaptionEpoch(EpochRecord):
    """One row of the curve; losses in nats a token, accuracies of teacher-forced tokens.

    Training figures are running means over the epoch, with dropout and label smoothing;
    validation is without both.

    Attributes:
        val_bleu: mean sentence BLEU of greedy captions; None where it was not measured.
        learning_rate: of the epoch's last step.
        grad_norm: mean over the epoch's steps of the gradient's norm, before it is cut.
    """

    val_loss: float
    train_token_accuracy: float
    val_token_accuracy: float
    val_bleu: float | None
    learning_rate: float
    grad_norm: float


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


def metric_value(metric: Metric, record: CaptionEpoch) -> float | None:
    """What the best epoch has most of."""
    return -record.val_loss if metric == "val_loss" else getattr(record, metric)


def nothing_learnt(why: str | None, token_accuracy: float) -> str | None:
    """A sentence on a captioner that has learnt nothing, or None.

    Args:
        why: as
            :meth:`~compositional_prompts.compute.training.training_run.TrainingRun.learnt_nothing`
            says.
        token_accuracy: of the best epoch on validation images.
    """
    if token_accuracy < LEAST_ACCURACY:
        low = f"of the tokens of validation captions {token_accuracy:.2%} are right"
        why = low if why is None else f"{why}, and {low}"
    if why is None:
        return None
    return (
        f"The captioner has learnt nothing: {why}. Its captions mean nothing: lower "
        "finetune.learning_rate, or raise it where it is tiny."
    )


def summarise(history: Sequence[CaptionEpoch], metric: Metric, best: int) -> dict[str, Any]:
    """Min, max and mean of the epochs' losses, epochs run, the best epoch and its figures.

    ``val_bleu`` is the best that was measured, and left out where none was.
    """
    measured = [record.val_bleu for record in history if record.val_bleu is not None]
    return {
        "train_loss": spread([record.train_loss for record in history]),
        "val_loss": spread([record.val_loss for record in history]),
        "epochs": len(history),
        "best_metric": metric,
        "best_epoch": best,
        "val_token_accuracy": history[best - 1].val_token_accuracy,
        **({"val_bleu": max(measured)} if measured else {}),
    }
