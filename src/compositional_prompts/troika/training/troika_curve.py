"""What is measured of Troika after every epoch, and by what the best one is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from compositional_prompts.compute.training.learning_curve import EpochRecord

Selection = Literal["val_auc", "val_primitive_hm", "val_object_accuracy", "last_epoch"]


@dataclass(frozen=True)
class TroikaEpoch(EpochRecord):
    """One row of the curve; validation is None where there is nothing to measure.

    The training loss is the mean over the images of the weighted sum of the three cross-entropies.
    """

    val_auc: float | None
    val_hm: float | None
    val_best_seen: float | None
    val_best_unseen: float | None
    val_attribute_accuracy: float | None
    val_object_accuracy: float | None


def validation_columns(
    metrics: Mapping[str, float | None], *, objects_alone: bool = False
) -> dict[str, float | None]:
    """The curve's columns of validation's :func:`~.evaluation.czsl_metrics`.

    Where images are named by objects alone, there is no accuracy of attributes.
    """
    return {
        "val_auc": metrics["auc"],
        "val_hm": metrics["best_hm"],
        "val_best_seen": metrics["best_seen"],
        "val_best_unseen": metrics["best_unseen"],
        "val_attribute_accuracy": None if objects_alone else metrics["attribute_accuracy"],
        "val_object_accuracy": metrics["object_accuracy"],
    }


def selection_of(seen: Tensor, *, objects_alone: bool = False) -> Selection:
    """What chooses the best epoch, by whether each validation image's pair is seen, ``[images]``.

    The AUC needs images of seen and of unseen pairs; where either are missing, the harmonic mean
    of attribute and object accuracy takes its place, and where images are named by objects alone
    the accuracy of objects; without images it is the last epoch.
    """
    if not len(seen):
        return "last_epoch"
    if objects_alone:
        return "val_object_accuracy"
    return "val_auc" if bool(seen.any()) and not bool(seen.all()) else "val_primitive_hm"


def selected_figure(
    selection: Selection, figures: Mapping[str, float | int | None]
) -> float | None:
    """What the best epoch, and the best weights of the score, have most of.

    Args:
        selection: which figure it is.
        figures: ``epoch`` where the last one is the best, else :func:`validation_columns`.
    """
    if selection == "val_auc":
        return figures["val_auc"]
    if selection == "last_epoch":
        return figures["epoch"]
    if selection == "val_object_accuracy":
        return figures["val_object_accuracy"]
    attribute, name = figures["val_attribute_accuracy"], figures["val_object_accuracy"]
    if attribute is None or name is None:
        return None
    return 2 * attribute * name / (attribute + name) if attribute + name else 0.0
