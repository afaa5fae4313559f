"""The stage ``word_scorer``: how the words of every group are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.enhancement.calibration.group_calibration import CalibrationFigures
from compositional_prompts.enhancement.colors.color_tables import palettes_of
from compositional_prompts.enhancement.fitting.altered_copies import AlteredCopies
from compositional_prompts.enhancement.fitting.labelled_images import (
    FittingPaths,
    LabelledImages,
    read_labelled,
)
from compositional_prompts.enhancement.fitting.probe import Probe, fit_probe
from compositional_prompts.enhancement.fitting.scorer_calibration import calibrate_scorer
from compositional_prompts.enhancement.parameters import COLOR_METHODS, Enhance
from compositional_prompts.enhancement.word_scorer import GroupScorer, WordScorer, pixel_scorer
from compositional_prompts.enhancement.word_vocabulary import Vocabulary


@dataclass(frozen=True)
class PromptEnsembles:
    """Words in several templates.

    Attributes:
        vectors: by group, L2-normalised float32 ``[words, d]``.
        logit_scale: what the CLIP was trained to multiply cosines by.
    """

    vectors: Mapping[str, NDArray[np.float32]]
    logit_scale: float


class GroupFit(TypedDict):
    """What was learnt of one group.

    Attributes:
        method: as in the parameters.
        train_images: images of the training split that it was learnt from; 0 where the method
            learns nothing.
        val_images: images of the validation split with a true word of the vocabulary.
        outside_vocabulary: images of the training split left out, since what is true of them is
            not among the words; 0 where the method learns nothing.
        unlabelled_words: those that are true of no image that was learnt from; null where the
            method learns nothing.
        strength: of the pull towards the texts' scores; null where nothing was learnt, since
            fewer than two words are true of any image, or the method learns nothing.
        folds_log_likelihood: natural logarithm of the probability of what is true, the mean over
            training images that were left out of the folds; null without strength, or of too few
            products to try strengths.
        calibration: what validation images say.
    """

    method: str
    train_images: int
    val_images: int
    outside_vocabulary: int
    unlabelled_words: list[str] | None
    strength: float | None
    folds_log_likelihood: float | None
    calibration: CalibrationFigures


@dataclass(frozen=True)
class FittedWords:
    """A scorer, and what it was learnt from by group."""

    scorer: WordScorer
    metrics: Mapping[str, GroupFit]


def groups_in_templates(vocabulary: Mapping[str, Sequence[str]], params: Enhance) -> list[str]:
    """The groups whose method starts from words in templates."""
    return [group for group in vocabulary if params.method_of(group) in ("zero_shot", "probe")]


def fit_word_scorer(
    vocabulary: Vocabulary,
    ensembles: PromptEnsembles | None,
    train: LabelledImages,
    validation: LabelledImages,
    params: Enhance,
    altered: LabelledImages | None = None,
) -> FittedWords:
    """Learn how words are scored, on arrays alone.

    What is learnt depends on ``train`` alone; ``validation`` calibrates.

    Args:
        vocabulary: words and the vectors of the bare ones.
        ensembles: of the groups of :func:`groups_in_templates`; None where there are none.
        train: images to learn from, with truth of the groups that learn.
        validation: other images, with truth of any group.
        params: the section ``enhance``.
        altered: ``train`` with altered copies, to learn from in its place.

    Raises:
        ValueError: a group's method needs what is not there.
    """
    palettes = palettes_of(vocabulary.words, params)
    scorers, metrics = {}, {}
    for group, words in vocabulary.words.items():
        method, bare = params.method_of(group), vocabulary.vectors[group]
        probe: Probe | None = None
        if method == "cosine":
            scorer = GroupScorer(words, method, bare)
        elif method == "pixels":
            if group not in palettes:
                raise ValueError(_no_colors(group))
            scorer = pixel_scorer(words, bare)
        else:
            if ensembles is None or group not in ensembles.vectors:
                raise ValueError(
                    f"the group {group!r} is scored by the method {method}, which takes its words "
                    "in the templates of enhance.templates, and they were not given."
                )
            texts, scale = ensembles.vectors[group], ensembles.logit_scale
            if method == "probe":
                seen = train if altered is None else altered
                probe = fit_probe(words, bare, texts, scale, seen, group)
                scorer = probe.scorer
            else:
                scorer = GroupScorer(words, method, bare, np.float32(scale) * texts)
        scorers[group], calibration = calibrate_scorer(group, scorer, validation, params)
        metrics[group] = GroupFit(
            method=method,
            train_images=0 if probe is None else len(train.of_group(group)),
            val_images=len(validation.of_group(group)),
            outside_vocabulary=0 if probe is None else train.outside(group),
            unlabelled_words=None if probe is None else list(probe.unlabelled),
            strength=None if probe is None else probe.strength,
            folds_log_likelihood=None if probe is None else probe.folds_log_likelihood,
            calibration=calibration,
        )
    return FittedWords(WordScorer(scorers, palettes), metrics)


def _no_colors(group: str) -> str:
    return (
        f"the method of the group {group!r} is pixels (enhance.methods, enhance.method), and no "
        "more than half of its words are names of colors: take another method, or give their "
        "colors in enhance.reference_colors."
    )


def fit_from_tables(
    paths: FittingPaths,
    vocabulary: Vocabulary,
    ensembles: PromptEnsembles | None,
    params: Enhance,
    copies: AlteredCopies | None = None,
) -> FittedWords:
    """As :func:`fit_word_scorer`, of the tables that stages wrote.

    Truth of the test split is not looked at.

    Args:
        copies: how ``enhance.altered_copies`` are made; None where there are none to learn from.

    Raises:
        MissingOutputError, SchemaError, ImageJoinError: as :func:`read_labelled`.
        ValueError: as :func:`fit_word_scorer`.
    """
    learnt = {
        group: words
        for group, words in vocabulary.words.items()
        if params.method_of(group) == "probe"
    }
    colored = [group for group in vocabulary.words if params.method_of(group) in COLOR_METHODS]
    most = params.learn_images
    to_learn_from = [group for group in colored if group in learnt]
    train = read_labelled(paths, "train", learnt, to_learn_from, most)
    validation = read_labelled(paths, "val", vocabulary.words, colored, most)
    altered = None
    if learnt and params.altered_copies:
        if copies is None:
            raise ValueError("enhance.altered_copies: it was not said how copies are made.")
        palettes = palettes_of(vocabulary.words, params)
        altered = copies.beside(
            train, params.altered_copies, vocabulary.words, palettes, paths.splits
        )
    return fit_word_scorer(vocabulary, ensembles, train, validation, params, altered)
