"""What is measured after every epoch, which epoch is the best, and when to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor

Selection = Literal["val_auc", "val_primitive_hm", "last_epoch"]


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training curve; validation is None where there is nothing to measure.

    Attributes:
        epoch: counted from 1.
        train_loss: mean over the images of the weighted sum of the three cross-entropies.
    """

    epoch: int
    train_loss: float
    val_auc: float | None
    val_hm: float | None
    val_best_seen: float | None
    val_best_unseen: float | None
    val_attribute_accuracy: float | None
    val_object_accuracy: float | None

    @classmethod
    def of(
        cls, epoch: int, train_loss: float, metrics: Mapping[str, float | int | None]
    ) -> EpochRecord:
        """The record of an epoch, of validation's :func:`~.evaluation.czsl_metrics`."""
        return cls(
            epoch,
            train_loss,
            val_auc=metrics["auc"],
            val_hm=metrics["best_hm"],
            val_best_seen=metrics["best_seen"],
            val_best_unseen=metrics["best_unseen"],
            val_attribute_accuracy=metrics["attribute_accuracy"],
            val_object_accuracy=metrics["object_accuracy"],
        )

    def __str__(self) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} {value:.3f}"
            for name, value in asdict(self).items()
            if name != "epoch" and value is not None
        )


def selection_of(seen: Tensor) -> Selection:
    """What chooses the best epoch, by whether each validation image's pair is seen, ``[images]``.

    The AUC needs images of seen and of unseen pairs; where either are missing, the harmonic mean
    of attribute and object accuracy takes its place; without images it is the last epoch.
    """
    if not len(seen):
        return "last_epoch"
    return "val_auc" if bool(seen.any()) and not bool(seen.all()) else "val_primitive_hm"


def _value(selection: Selection, record: EpochRecord) -> float:
    """What the best epoch has most of."""
    if selection == "val_auc":
        assert record.val_auc is not None
        return record.val_auc
    if selection == "val_primitive_hm":
        assert record.val_attribute_accuracy is not None
        assert record.val_object_accuracy is not None
        product = record.val_attribute_accuracy * record.val_object_accuracy
        total = record.val_attribute_accuracy + record.val_object_accuracy
        return 2 * product / total if total else 0.0
    return float(record.epoch)


def best_epoch(records: Sequence[EpochRecord], selection: Selection) -> int:
    """The best of at least one epoch, the earliest of equal ones, counted from 1."""
    return max(records, key=lambda record: _value(selection, record)).epoch


def should_stop(records: Sequence[EpochRecord], selection: Selection, patience: int | None) -> bool:
    """Whether ``patience`` epochs have passed since the best one; never with None."""
    if patience is None or not records:
        return False
    return records[-1].epoch - best_epoch(records, selection) >= patience
