"""Generalised compositional zero-shot metrics, exact: the whole seen-unseen curve.

A bias added to the scores of unseen pairs trades accuracy on images of seen pairs for accuracy on
images of unseen ones. Only one number of an image decides at which bias its prediction changes
from a seen to an unseen pair: the margin between the best of either. So the curve over all biases
is a sort of the margins, and images x pairs scores need not be kept.

Source: Chao et al., ECCV 2016 (the curve); Purushwalkam et al., ICCV 2019 (its use for pairs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

METRICS = (
    "best_seen",
    "best_unseen",
    "best_hm",
    "auc",
    "attribute_accuracy",
    "object_accuracy",
)
"""Names of the metrics, in the order in which they are written."""


@dataclass(frozen=True)
class World:
    """The candidate pairs of an evaluation: one column of the scores each.

    Attributes:
        attributes: attribute position of each pair, int64 ``[pairs]``.
        objects: object position of each pair, int64 ``[pairs]``.
        seen: whether the pair has training images, bool ``[pairs]``.
    """

    attributes: Tensor
    objects: Tensor
    seen: Tensor

    @classmethod
    def of(cls, pair_indices: Tensor, seen: Tensor) -> World:
        """The world of pairs given as attribute and object positions, int64 ``[pairs, 2]``."""
        return cls(pair_indices[:, 0], pair_indices[:, 1], seen)


@dataclass(frozen=True)
class Judgements:
    """All that the metrics need to know of each image.

    Attributes:
        margin: best seen score minus best unseen score, float64 ``[images]``; infinite where the
            world has only seen (+) or only unseen (-) pairs.
        seen_hit: the best seen pair is the true one, bool ``[images]``.
        unseen_hit: the best unseen pair is the true one, bool ``[images]``.
        attribute_hit: the best pair of all has the true attribute, bool ``[images]``.
        object_hit: the best pair of all has the true object, bool ``[images]``.
        seen: the true pair is a seen one, bool ``[images]``.
    """

    margin: Tensor
    seen_hit: Tensor
    unseen_hit: Tensor
    attribute_hit: Tensor
    object_hit: Tensor
    seen: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Judgements]) -> Judgements:
        """The judgements of several batches as one; of no batch, judgements of no image."""
        if not parts:
            no = torch.zeros(0, dtype=torch.bool)
            return cls(torch.zeros(0, dtype=torch.float64), no, no, no, no, no)
        return cls(
            *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls))
        )


def _best(scores: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Best score of each row among ``columns`` and its column; minus infinity and -1 of none."""
    if len(columns) == 0:
        rows = scores.shape[0]
        return scores.new_full((rows,), -torch.inf), columns.new_full((rows,), -1)
    values, positions = scores[:, columns].max(dim=1)
    return values, columns[positions]


def judge(scores: Tensor, truth: Tensor, world: World) -> Judgements:
    """Reduce the scores of a batch to what the metrics need, on the CPU.

    Args:
        scores: score of every pair of the world, float ``[images, pairs]``; of equal scores the
            first pair wins.
        truth: column of the true pair, int64 ``[images]``.
        world: the pairs.

    Raises:
        ValueError: a score is not a number.
    """
    if bool(torch.isnan(scores).any()):
        row = int(torch.isnan(scores).any(dim=1).nonzero()[0])
        raise ValueError(f"Scores of image {row} of a batch are not numbers: the model diverged.")
    seen_score, seen_column = _best(scores, world.seen.nonzero().squeeze(1))
    unseen_score, unseen_column = _best(scores, (~world.seen).nonzero().squeeze(1))
    best = scores.argmax(dim=1)
    return Judgements(
        margin=(seen_score.double() - unseen_score.double()).cpu(),
        seen_hit=(seen_column == truth).cpu(),
        unseen_hit=(unseen_column == truth).cpu(),
        attribute_hit=(world.attributes[best] == world.attributes[truth]).cpu(),
        object_hit=(world.objects[best] == world.objects[truth]).cpu(),
        seen=world.seen[truth].cpu(),
    )


def _mean(hits: Tensor) -> float | None:
    return float(hits.double().mean()) if len(hits) else None


def seen_unseen_curve(judgements: Judgements) -> tuple[Tensor, Tensor]:
    """Accuracy on images of seen and of unseen pairs for every bias, the lowest first.

    With bias b on the unseen pairs a seen pair is predicted where margin > b, an unseen one where
    margin < b. Between two neighbouring margins nothing changes, so the points returned, one before
    the first margin and one after each, are the whole curve. A bias equal to a margin is a tie and
    no point of the curve.

    Returns:
        Seen and unseen accuracy, float64 ``[distinct margins of right images + 1]``; seen accuracy
        never rises and unseen accuracy never falls along them.

    Raises:
        ValueError: there are no images of seen pairs, or none of unseen pairs.
    """
    seen, unseen = judgements.seen, ~judgements.seen
    if not bool(seen.any()) or not bool(unseen.any()):
        raise ValueError("The curve needs images of seen and of unseen pairs.")
    lost = judgements.margin[seen & judgements.seen_hit].sort().values
    won = judgements.margin[unseen & judgements.unseen_hit].sort().values
    changes: Tensor = torch.unique(torch.cat([lost, won]))
    before = changes.new_tensor([-torch.inf])
    biases = torch.cat([before, changes[changes.isfinite()]])
    kept = len(lost) - torch.searchsorted(lost, biases, right=True)
    gained = torch.searchsorted(won, biases, right=True)
    return kept.double() / int(seen.sum()), gained.double() / int(unseen.sum())


def czsl_metrics(judgements: Judgements) -> dict[str, float | int | None]:
    """The metrics of :data:`METRICS` and the number of images behind them.

    ``best_seen`` and ``best_unseen`` are the accuracies among seen pairs alone and among unseen
    pairs alone (bias to minus and plus infinity); ``best_hm`` is the best harmonic mean on the
    curve, ``auc`` the area under it (trapezoids: where one bias changes both accuracies, the
    points are joined). ``attribute_accuracy`` and ``object_accuracy`` are those of the best pair
    without bias. All are fractions; one is None where it has no images: ``best_hm`` and ``auc``
    need images of seen and of unseen pairs.
    """
    seen = judgements.seen
    metrics: dict[str, float | int | None] = {
        "best_seen": _mean(judgements.seen_hit[seen]),
        "best_unseen": _mean(judgements.unseen_hit[~seen]),
        "best_hm": None,
        "auc": None,
        "attribute_accuracy": _mean(judgements.attribute_hit),
        "object_accuracy": _mean(judgements.object_hit),
        "images": len(seen),
        "seen_images": int(seen.sum()),
        "unseen_images": int((~seen).sum()),
    }
    if bool(seen.any()) and not bool(seen.all()):
        seen_accuracy, unseen_accuracy = seen_unseen_curve(judgements)
        total = seen_accuracy + unseen_accuracy
        harmonic = 2 * seen_accuracy * unseen_accuracy / total.clamp(min=1e-300)
        metrics["best_hm"] = float(harmonic.max())
        metrics["auc"] = float(torch.trapezoid(seen_accuracy, unseen_accuracy))
    return metrics
