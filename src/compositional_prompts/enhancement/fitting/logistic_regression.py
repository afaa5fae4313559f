"""Multinomial logistic regression that starts from scores that are there already.

The logits of image i and word w are

    sum_m  gain_m * prior_m[i, w]  +  weights[w] . features[i]  +  bias[w]

and what is minimised is the cross-entropy of the true words, summed over the images, plus

    strength / 2 * |weights|^2  +  BIAS_STRENGTH / 2 * |bias|^2
                                +  GAIN_STRENGTH / 2 * sum_m (gain_m / start_m - 1)^2 .

So with few images the words keep their prior scores (of CLIP's texts), and with many they follow
what is true: the blend of LP++ (Huang et al., CVPR 2024, arXiv 2404.02285), whose classifier is a
learnt multiple of the text vector plus a learnt vector, with the pull towards the texts that CLAP
(Silva-Rodriguez et al., CVPR 2024, arXiv 2312.12730) puts on it as a penalty. The pull is of one
strength for all words, in sum over the images, so a word with few true images moves little. Words
that are true of none are not moved at all.

Where several words are true of an image, each is as much as the others. The problem is convex with
one minimum, found by L-BFGS (Liu & Nocedal, 1989) in float64: no seed, no learning rate. Features
are turned to their principal axes, and every unknown is measured by the curvature that its axis
and the frequency of its word lead to expect: that takes a tenth of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BIAS_STRENGTH = 0.1
GAIN_STRENGTH = 1.0
MEMORY = 10
"""Steps that L-BFGS remembers."""
MOST_STEPS = 500
TOLERANCE = 1e-11
"""How far above the minimum the result may be, about, in nats an image."""


@dataclass(frozen=True)
class Prior:
    """Scores that are there before anything is learnt.

    Attributes:
        scores: float64 ``[n, words]``.
        start: what they are multiplied by, as long as nothing is learnt; above 0.
    """

    scores: Array
    start: float


@dataclass(frozen=True)
class Regression:
    """What was learnt.

    Attributes:
        weights: float64 ``[words, features]``; rows of words that are true of nothing are 0.
        bias: float64 ``[words]``; as the weights.
        gains: what each prior is multiplied by, at least 0.
        steps: of the optimiser.
    """

    weights: Array
    bias: Array
    gains: tuple[float, ...]
    steps: int

    def logits(self, features: Array, priors: Sequence[Array]) -> Array:
        """Of other images, float64 ``[n, words]``."""
        found = features @ self.weights.T + self.bias
        for gain, prior in zip(self.gains, priors, strict=True):
            found += gain * prior
        return found


def fit_regression(
    features: Array,
    truth: NDArray[np.bool_],
    priors: Sequence[Prior],
    strength: float,
    start: Regression | None = None,
    tolerance: float = TOLERANCE,
) -> Regression:
    """The minimum of the module's formula.

    Args:
        features: float64 ``[n, features]``, n at least 1.
        truth: which words are true, bool ``[n, words]``, at least one of every image.
        priors: scores of the same images and words.
        strength: above 0.
        start: where to begin, which changes the number of steps and nothing else.
        tolerance: how far above the minimum it may end, about, in nats an image.

    Raises:
        ValueError: an image has no true word, or a number is not finite.
    """
    if not truth.any(axis=1).all():
        raise ValueError("an image without a true word cannot be learnt from.")
    if not all(np.isfinite(one).all() for one in (features, *(prior.scores for prior in priors))):
        raise ValueError("features and scores to learn from must be finite.")
    axes = np.linalg.eigh(features.T @ features)[1]
    turned = features @ axes
    weights = np.zeros((truth.shape[1], features.shape[1]))
    bias = np.zeros(truth.shape[1])
    gains = np.ones(len(priors))
    if start is not None:
        weights, bias = start.weights @ axes, start.bias
        gains = np.array([g / prior.start for g, prior in zip(start.gains, priors, strict=True)])
    # A gain below 0 would turn the texts' scores round, also of words that nothing was learnt of.
    used = np.ones(len(priors), np.bool_)
    steps = 0
    while True:
        some = [prior for prior, use in zip(priors, used.tolist(), strict=True) if use]
        problem = _Problem(turned, truth, some, strength)
        first = problem.packed(weights, bias, gains[used])
        found, more = minimise(problem, first, tolerance * len(truth))
        weights, bias, gains[used] = problem.unpacked(found)
        steps += more
        gains[~used] = 0
        if (gains >= 0).all():
            break
        used &= gains >= 0
    full = tuple(g * prior.start for g, prior in zip(gains.tolist(), priors, strict=True))
    return Regression(weights @ axes.T, bias, full, steps)


class _Problem:
    """The loss and its gradient, of a vector of all that is learnt, each in units of its own."""

    def __init__(
        self,
        features: Array,
        truth: NDArray[np.bool_],
        priors: Sequence[Prior],
        strength: float,
    ) -> None:
        self._features = features
        self._target = truth / truth.sum(axis=1, keepdims=True)
        self._priors = [prior.start * prior.scores for prior in priors]
        self._strength = strength
        self._learnt = truth.any(axis=0)
        self._shape = (truth.shape[1], features.shape[1])
        share = self._target.mean(axis=0)
        spread = share * (1 - share)
        axes = np.square(features).sum(axis=0)
        curvatures = [
            (spread[:, None] * axes + strength).ravel(),
            spread * len(truth) + BIAS_STRENGTH,
            [prior.var(axis=1).sum() + GAIN_STRENGTH for prior in self._priors],
        ]
        self._units = 1 / np.sqrt(np.concatenate(curvatures))

    def packed(self, weights: Array, bias: Array, gains: Array) -> Array:
        packed: Array = np.concatenate([weights.ravel(), bias, gains]) / self._units
        return packed

    def unpacked(self, values: Array) -> tuple[Array, Array, Array]:
        words, width = self._shape
        ends = [words * width, words * width + words]
        weights, bias, gains = np.split(values * self._units, ends)
        return weights.reshape(self._shape), bias, gains

    def __call__(self, values: Array) -> tuple[float, Array]:
        weights, bias, gains = self.unpacked(values)
        logits = self._features @ weights.T + bias
        for gain, prior in zip(gains.tolist(), self._priors, strict=True):
            logits += gain * prior
        logits -= logits.max(axis=1, keepdims=True)
        raised = np.exp(logits)
        sums = raised.sum(axis=1, keepdims=True)
        loss = -float((self._target * (logits - np.log(sums))).sum())
        loss += self._strength / 2 * float((weights**2).sum())
        loss += BIAS_STRENGTH / 2 * float((bias**2).sum())
        loss += GAIN_STRENGTH / 2 * float(((gains - 1) ** 2).sum())
        rest = raised / sums - self._target
        of_weights = rest.T @ self._features + self._strength * weights
        of_bias = rest.sum(axis=0) + BIAS_STRENGTH * bias
        of_weights[~self._learnt] = 0
        of_bias[~self._learnt] = 0
        of_gains = np.array([float((rest * prior).sum()) for prior in self._priors])
        of_gains += GAIN_STRENGTH * (gains - 1)
        gradient = np.concatenate([of_weights.ravel(), of_bias, of_gains])
        return loss, gradient * self._units


def minimise(
    problem: Callable[[Array], tuple[float, Array]], values: Array, tolerance: float
) -> tuple[Array, int]:
    """The minimum of a smooth convex function by L-BFGS, and the number of steps.

    Steps are halved until they lower the function enough (Armijo). It ends where half the
    gradient's square, in units in which curvatures are near 1 about how far above the minimum it
    is, is at most ``tolerance``, where no step lowers the function any more, or after
    ``MOST_STEPS``.
    """
    loss, gradient = problem(values)
    moves: list[Array] = []
    changes: list[Array] = []
    for step in range(MOST_STEPS):
        if float(gradient @ gradient) / 2 <= tolerance:
            return values, step
        direction = _direction(gradient, moves, changes)
        descent = float(direction @ gradient)
        length = 1.0
        while True:
            new = values - length * direction
            new_loss, new_gradient = problem(new)
            if new_loss <= loss - 1e-4 * length * descent:
                break
            length /= 2
            if length < 1e-12:
                return values, step
        move, change = new - values, new_gradient - gradient
        if float(move @ change) > 0:
            moves, changes = [*moves[1 - MEMORY :], move], [*changes[1 - MEMORY :], change]
        values, loss, gradient = new, new_loss, new_gradient
    return values, MOST_STEPS


def _direction(gradient: Array, moves: Sequence[Array], changes: Sequence[Array]) -> Array:
    """The gradient times the inverse Hessian that the last steps show (the two loops)."""
    direction = gradient.copy()
    shares = []
    for move, change in zip(reversed(moves), reversed(changes), strict=True):
        share = float(move @ direction) / float(move @ change)
        direction -= share * change
        shares.append(share)
    if moves:
        direction *= float(moves[-1] @ changes[-1]) / float(changes[-1] @ changes[-1])
    for move, change, share in zip(moves, changes, reversed(shares), strict=True):
        direction += move * (share - float(change @ direction) / float(move @ change))
    return direction
