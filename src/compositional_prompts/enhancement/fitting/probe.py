"""The method ``probe``: logistic regression on CLIP vectors and the colours of products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.enhancement.colors.foreground_colors import BINS
from compositional_prompts.enhancement.fitting.labelled_images import LabelledImages
from compositional_prompts.enhancement.fitting.logistic_regression import (
    Array,
    Prior,
    Regression,
    fit_regression,
)
from compositional_prompts.enhancement.word_scorer import (
    GroupScorer,
    Vectors,
    color_features,
)

STRENGTHS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
"""Pulls towards the texts that are tried, the strongest first. They are of features whose squared
length is 1 on average, and of losses summed over images, so that the best is about the same for
few images and for many."""
DEFAULT_STRENGTH = 1.0
"""Where there are too few products to try."""
FOLDS = 4
FOLD_TOLERANCE = 1e-5
"""In nats an image, of regressions that are only compared: they differ in the third digit."""
FOLD_IMAGES = 6000
"""Most images by which the strength is chosen."""


@dataclass(frozen=True)
class Probe:
    """What was learnt.

    Attributes:
        scorer: of the group.
        strength: of the pull towards the texts; None where nothing was learnt.
        folds_log_likelihood: natural logarithm of the true words' probability, the mean over
            training images that were left out; None where none were.
        unlabelled: words that are true of no training image.
    """

    scorer: GroupScorer
    strength: float | None
    folds_log_likelihood: float | None
    unlabelled: tuple[str, ...]


def fit_probe(
    words: Sequence[str],
    vectors: Vectors,
    texts: Vectors,
    logit_scale: float,
    images: LabelledImages,
    group: str,
) -> Probe:
    """Learn how the words of a group are scored, from the images of which one is true.

    The strength is the one with the highest likelihood in cross-validation over products of the
    training images, so that validation images are left to calibrate on. With fewer than two words
    that are true of any image nothing can be told apart, and words keep their zero-shot scores.

    Args:
        words: the vocabulary.
        vectors: of the bare words, float32 ``[words, d]``.
        texts: of the words in templates, L2-normalised float32 ``[words, d]``.
        logit_scale: of the CLIP.
        images: those to learn from; others than of the group are left out.
        group: its name; where it is among ``images.colors``, colours are learnt from too.
    """
    images = images.of_group(group)
    truth = images.truth[group]
    seen = truth.sum(axis=0).tolist()
    unlabelled = tuple(word for word, count in zip(words, seen, strict=True) if not count)
    colors = images.colors.get(group)
    if len(words) - len(unlabelled) < 2:
        scorer = _scorer(words, vectors, np.float32(logit_scale) * texts, colors, None)
        return Probe(scorer, None, None, unlabelled)
    features = _Features(images.vectors, colors)
    priors = [Prior(images.vectors.astype(np.float64) @ texts.T.astype(np.float64), logit_scale)]
    if colors is not None:
        votes = color_features(colors)[:, BINS:].astype(np.float64)
        priors.append(Prior(votes, 1.0))
    values = features.of(images.vectors, colors)
    strength, likelihood = _chosen_strength(values, truth, priors, images.products)
    found = fit_regression(values, truth, priors, strength)
    scorer = _scorer(words, vectors, found.gains[0] * texts, colors, (features, found))
    return Probe(scorer, strength, likelihood, unlabelled)


class _Features:
    """CLIP's vectors and the roots of histograms, each centred and of squared length 1 on average.

    Both are known of the training images alone; the result is linear in the raw features.
    """

    def __init__(self, vectors: Vectors, colors: Vectors | None) -> None:
        self.means, self.scales = [], []
        for block in _blocks(vectors, colors):
            mean = block.mean(axis=0)
            length = float(np.sqrt(((block - mean) ** 2).sum(axis=1).mean()))
            self.means.append(mean)
            self.scales.append(1 / length if length > 1e-9 else 0.0)

    def of(self, vectors: Vectors, colors: Vectors | None) -> Array:
        """Float64 ``[n, d + 245]``, or ``[n, d]`` without colours."""
        parts = zip(_blocks(vectors, colors), self.means, self.scales, strict=True)
        return np.hstack([(block - mean) * scale for block, mean, scale in parts])


def _blocks(vectors: Vectors, colors: Vectors | None) -> list[Array]:
    blocks = [vectors.astype(np.float64)]
    if colors is not None:
        blocks.append(color_features(colors)[:, :BINS].astype(np.float64))
    return blocks


def _scorer(
    words: Sequence[str],
    vectors: Vectors,
    image_weights: NDArray[np.floating],
    colors: Vectors | None,
    learnt: tuple[_Features, Regression] | None,
) -> GroupScorer:
    """All that is linear brought together: the priors' gains, centring, scales and weights."""
    color_weights: Array | None = None
    bias = np.zeros(len(words))
    image_weights = image_weights.astype(np.float64)
    if colors is not None:
        color_weights = np.zeros((len(words), colors.shape[1]))
    if learnt is not None:
        features, found = learnt
        parts = np.split(found.weights, [vectors.shape[1]], axis=1)
        scaled = [part * scale for part, scale in zip(parts, features.scales, strict=False)]
        bias = found.bias - sum(
            part @ mean for part, mean in zip(scaled, features.means, strict=False)
        )
        image_weights = image_weights + scaled[0]
        if color_weights is not None:
            color_weights[:, :BINS] = scaled[1]
            color_weights[:, BINS:] = found.gains[1] * np.eye(len(words))
    return GroupScorer(
        tuple(words),
        "probe",
        vectors,
        image_weights.astype(np.float32),
        None if color_weights is None else color_weights.astype(np.float32),
        bias.astype(np.float32),
    )


def _chosen_strength(
    values: Array, truth: NDArray[np.bool_], priors: Sequence[Prior], products: NDArray[np.int64]
) -> tuple[float, float | None]:
    names = np.unique(products)
    if len(names) < 2 * FOLDS:
        return DEFAULT_STRENGTH, None
    fold_of = np.random.default_rng(0).permutation(len(names)) % FOLDS
    folds = fold_of[np.searchsorted(names, products)]
    if len(values) > FOLD_IMAGES:
        rows = np.sort(np.random.default_rng(0).choice(len(values), FOLD_IMAGES, replace=False))
        values, truth, folds = values[rows], truth[rows], folds[rows]
        priors = [Prior(prior.scores[rows], prior.start) for prior in priors]
    found: list[Regression | None] = [None] * FOLDS
    best, highest = DEFAULT_STRENGTH, -np.inf
    # Towards weaker pulls, which take the most steps, until nothing is won by them.
    for strength in STRENGTHS:
        likelihood = 0.0
        for fold in range(FOLDS):
            held, rest = folds == fold, folds != fold
            if not held.any() or not rest.any():
                continue
            some = [Prior(prior.scores[rest], prior.start) for prior in priors]
            learnt = fit_regression(
                values[rest], truth[rest], some, strength, found[fold], FOLD_TOLERANCE
            )
            found[fold] = learnt
            logits = learnt.logits(values[held], [prior.scores[held] for prior in priors])
            likelihood += _log_likelihood(logits, truth[held])
        if likelihood <= highest:
            break
        best, highest = strength, likelihood
    return best, highest / len(values)


def _log_likelihood(logits: Array, truth: NDArray[np.bool_]) -> float:
    """Of any true word, in sum over the images."""
    logs = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return float(np.log(np.where(truth, np.exp(logs), 0).sum(axis=1).clip(1e-300)).sum())
