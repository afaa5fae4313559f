"""Generalised compositional zero-shot metrics of both protocols, from judgements of images.

Source: Chao et al., ECCV 2016 (the curve); Purushwalkam et al., ICCV 2019 (its use for pairs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compositional_prompts.troika.evaluation.judging import Judgements

SAMPLED_METRICS = ("best_seen", "best_unseen", "best_hm", "auc")
"""Names of the metrics of the sampled protocol."""

HIGHEST_BIAS = 1e3
"""The bias at which the sampled protocol asks for the best unseen pair."""

BIAS_SAMPLES = 20
"""The sampled protocol takes every n-th of the biases, n such that at least so many remain."""

BELOW_MARGIN = 1e-4
"""What the sampled protocol takes off the margins."""

IMAGE_BLOCK = 65_536
"""Images whose hits at every sampled bias are in memory at once."""


def _share(hits: Tensor, images: int) -> float | None:
    return int(torch.count_nonzero(hits)) / images if images else None


def _counts(judgements: Judgements) -> tuple[int, int]:
    """Images of seen and of unseen pairs."""
    seen = int(torch.count_nonzero(judgements.seen))
    return seen, len(judgements) - seen


def _harmonic_mean(
    seen_accuracy: NDArray[np.float64], unseen_accuracy: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of two accuracies; 0 where both are."""
    total = np.maximum(seen_accuracy + unseen_accuracy, np.finfo(np.float64).tiny)
    return 2 * seen_accuracy * unseen_accuracy / total


def seen_unseen_curve(
    judgements: Judgements,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
    return _curve(judgements)[1:]


def _curve(
    judgements: Judgements,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The margins from which on each point of :func:`seen_unseen_curve` holds, and these."""
    seen_images, unseen_images = _counts(judgements)
    if not seen_images or not unseen_images:
        raise ValueError("The curve needs images of seen and of unseen pairs.")
    margin = judgements.margin.numpy()
    lost = np.sort(margin[judgements.seen_hit.numpy()])
    won = np.sort(margin[judgements.unseen_hit.numpy()])
    changes = np.unique(np.concatenate([lost, won]))
    biases = np.concatenate([[-np.inf], changes[np.isfinite(changes)]])
    kept = len(lost) - np.searchsorted(lost, biases, side="right")
    gained = np.searchsorted(won, biases, side="right")
    return biases, kept / seen_images, gained / unseen_images


def best_bias(judgements: Judgements) -> float | None:
    """The bias on unseen pairs with the highest harmonic mean of seen and unseen accuracy.

    Midway between the margins that it lies between, of equal ones the lowest; 0 if nothing changes
    with the bias, and None without images of seen or without images of unseen pairs.

    Source: calibrated stacking of Chao et al., ECCV 2016, who take their constant off seen classes.
    """
    if not all(_counts(judgements)):
        return None
    biases, seen_accuracy, unseen_accuracy = _curve(judgements)
    if len(biases) == 1:
        return 0.0
    place = int(_harmonic_mean(seen_accuracy, unseen_accuracy).argmax())
    if place == 0:
        return float(biases[1] - 1)
    if place == len(biases) - 1:
        return float(biases[place] + 1)
    return float((biases[place] + biases[place + 1]) / 2)


def calibrated_metrics(bias: float, biased: Judgements) -> dict[str, float | None]:
    """Accuracies at one bias, which was chosen elsewhere.

    Args:
        bias: on unseen pairs.
        biased: judgements of scores that it was added to.

    Returns:
        ``bias``; ``seen`` and ``unseen``, accuracy on images of seen and of unseen pairs among all
        pairs, and ``hm``, their harmonic mean; ``accuracy``, ``attribute_accuracy`` and
        ``object_accuracy`` on all images. None where there are no images.
    """
    hit, seen = biased.attribute_hit & biased.object_hit, biased.seen
    seen_images, unseen_images = _counts(biased)
    of_seen, of_unseen = _share(hit & seen, seen_images), _share(hit & ~seen, unseen_images)
    mean = None
    if of_seen is not None and of_unseen is not None:
        mean = float(_harmonic_mean(np.array(of_seen), np.array(of_unseen)))
    return {
        "bias": bias,
        "seen": of_seen,
        "unseen": of_unseen,
        "hm": mean,
        "accuracy": _share(hit, len(biased)),
        "attribute_accuracy": _share(biased.attribute_hit, len(biased)),
        "object_accuracy": _share(biased.object_hit, len(biased)),
    }


def czsl_metrics(judgements: Judgements) -> dict[str, float | int | None]:
    """The metrics of the whole curve and the number of images behind them.

    ``best_seen`` and ``best_unseen`` are the accuracies among seen pairs alone and among unseen
    pairs alone (bias to minus and plus infinity); ``best_hm`` is the best harmonic mean on the
    curve, ``auc`` the area under it (trapezoids: where one bias changes both accuracies, the
    points are joined). ``attribute_accuracy`` and ``object_accuracy`` are those of the best pair
    without bias. All are fractions; one is None where it has no images: ``best_hm`` and ``auc``
    need images of seen and of unseen pairs.
    """
    images = len(judgements)
    seen_images, unseen_images = _counts(judgements)
    metrics: dict[str, float | int | None] = {
        "best_seen": _share(judgements.seen_hit, seen_images),
        "best_unseen": _share(judgements.unseen_hit, unseen_images),
        "best_hm": None,
        "auc": None,
        "attribute_accuracy": _share(judgements.attribute_hit, images),
        "object_accuracy": _share(judgements.object_hit, images),
        "images": images,
        "seen_images": seen_images,
        "unseen_images": unseen_images,
    }
    if seen_images and unseen_images:
        seen_accuracy, unseen_accuracy = seen_unseen_curve(judgements)
        metrics["best_hm"] = float(_harmonic_mean(seen_accuracy, unseen_accuracy).max())
        metrics["auc"] = float(np.trapezoid(seen_accuracy, unseen_accuracy))
    return metrics


def sampled_metrics(judgements: Judgements) -> dict[str, float | None]:
    """The numbers of the evaluator of Purushwalkam et al. and Mancini et al., on the same scores.

    It takes the unseen images that are right at :data:`HIGHEST_BIAS`, and of their biases (best
    seen score - true score - :data:`BELOW_MARGIN`), sorted, every n-th, n being their number //
    :data:`BIAS_SAMPLES` and at least 1. The curve is the accuracies at these biases and at
    :data:`HIGHEST_BIAS`, joined by straight lines.

    All is done in the dtype of the scores, as there: a bias of 1,000 leaves float32 scores a
    resolution of 6e-5, so unseen pairs closer than that tie. Theirs leaves ties to ``topk``; here
    the first pair by attribute, then object, wins, which is what ``topk`` does for 64 pairs and
    more, listed in that order, on a CPU.

    Returns:
        :data:`SAMPLED_METRICS`, fractions. ``best_seen`` (``best_unseen``) is None without images
        of seen (unseen) pairs, ``best_hm`` and ``auc`` without those of either, where theirs are
        not numbers. Note that ``best_seen`` of images of seen pairs alone is, as theirs, the
        accuracy at the highest bias. A harmonic mean with an accuracy of 0 is 0.
    """
    # No bias helps a true pair past a better one of its kind that comes before it.
    seen = _Rivals.of(judgements, judgements.seen_hit)
    unseen = _Rivals.of(
        judgements, ~judgements.seen & (judgements.truth_score > judgements.unseen_before)
    )
    highest = np.full(1, HIGHEST_BIAS, dtype=unseen.truth.dtype)
    right = unseen.unseen_predicted(highest)
    margins = np.sort((np.maximum(unseen.seen_before, unseen.seen_after) - unseen.truth)[right])
    margins = margins - unseen.truth.dtype.type(BELOW_MARGIN)
    biases = np.concatenate([margins[:: max(len(margins) // BIAS_SAMPLES, 1)], highest])
    seen_hits = seen.hits(biases, _Rivals.seen_predicted)
    unseen_hits = unseen.hits(biases, _Rivals.unseen_predicted)
    seen_images, unseen_images = _counts(judgements)
    metrics: dict[str, float | None] = dict.fromkeys(SAMPLED_METRICS)
    if seen_images:
        metrics["best_seen"] = float(seen_hits.max()) / seen_images
    if unseen_images:
        metrics["best_unseen"] = float(unseen_hits.max()) / unseen_images
    if seen_images and unseen_images:
        seen_accuracy, unseen_accuracy = seen_hits / seen_images, unseen_hits / unseen_images
        metrics["best_hm"] = float(_harmonic_mean(seen_accuracy, unseen_accuracy).max())
        metrics["auc"] = float(np.trapezoid(seen_accuracy, unseen_accuracy))
    return metrics


Scores = NDArray[np.floating[Any]]


class _Rivals(NamedTuple):
    """Scores of true pairs and of those around them, each ``[images]``; see Judgements."""

    truth: Scores
    seen_before: Scores
    seen_after: Scores
    unseen_before: Scores
    unseen_after: Scores

    @classmethod
    def of(cls, judged: Judgements, images: Tensor) -> _Rivals:
        """Those of the images of a mask, bool ``[images]``."""
        around = (judged.seen_before, judged.seen_after, judged.unseen_before, judged.unseen_after)
        # A mask is counted anew by every array that it is laid upon; places are not.
        places = np.flatnonzero(images.numpy())
        return cls(*(scores.numpy().take(places) for scores in (judged.truth_score, *around)))

    def seen_predicted(self, bias: Scores) -> NDArray[np.bool_]:
        """Whether true pairs, the best seen ones, are predicted with a bias on unseen pairs.

        The bias is added in the dtype of the scores: pairs closer than its rounding tie.
        """
        before, after = self.unseen_before + bias, self.unseen_after + bias
        return (self.truth > before) & (self.truth >= after)

    def unseen_predicted(self, bias: Scores) -> NDArray[np.bool_]:
        """Whether true pairs, unseen ones, are predicted with a bias on unseen pairs."""
        truth = self.truth + bias
        before = np.maximum(self.seen_before, self.unseen_before + bias)
        after = np.maximum(self.seen_after, self.unseen_after + bias)
        return (truth > before) & (truth >= after)

    def hits(
        self, biases: Scores, predicted: Callable[[_Rivals, Scores], NDArray[np.bool_]]
    ) -> NDArray[np.int64]:
        """Images predicted right at each bias, ``[biases]``."""
        hits = np.zeros(len(biases), dtype=np.int64)
        for start in range(0, len(self.truth), IMAGE_BLOCK):
            block = _Rivals(*(scores[start : start + IMAGE_BLOCK] for scores in self))
            hits += np.count_nonzero(predicted(block, biases[:, None]), axis=1)
        return hits
