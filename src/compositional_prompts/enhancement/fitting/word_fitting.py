"""The stage ``word_scorer``: how the words of every group are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.enhancement.calibration.group_calibration import CalibrationFigures
from compositional_prompts.enhancement.colors.color_tables import palettes_of
from compositional_prompts.enhancement.colors.foreground_colors import BINS
from compositional_prompts.enhancement.fitting.labelled_images import (
    FittingPaths,
    LabelledImages,
    read_labelled,
)
from compositional_prompts.enhancement.fitting.scorer_calibration import calibrate_scorer
from compositional_prompts.enhancement.parameters import COLOR_METHODS, Enhance
from compositional_prompts.enhancement.word_scorer import GroupScorer, WordScorer
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
            not among the words.
        unlabelled_words: those that are true of no image that was learnt from.
        calibration: what validation images say.
    """

    method: str
    train_images: int
    val_images: int
    outside_vocabulary: int
    unlabelled_words: list[str]
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
) -> FittedWords:
    """Learn how words are scored, on arrays alone.

    What is learnt depends on ``train`` alone; ``validation`` calibrates.

    Args:
        vocabulary: words and the vectors of the bare ones.
        ensembles: of the groups of :func:`groups_in_templates`; None where there are none.
        train: images to learn from, with truth of the groups that learn.
        validation: other images, with truth of any group.
        params: the section ``enhance``.

    Raises:
        ValueError: a group's method needs what is not there.
    """
    palettes = palettes_of(vocabulary.words, params)
    scorers, metrics = {}, {}
    for group, words in vocabulary.words.items():
        method = params.method_of(group)
        if method == "cosine":
            scorer = GroupScorer(words, method, vocabulary.vectors[group])
        elif method == "pixels":
            if group not in palettes:
                raise ValueError(_no_colors(group))
            weights = np.eye(len(words), BINS + len(words), BINS, dtype=np.float32)
            scorer = GroupScorer(words, method, vocabulary.vectors[group], None, weights)
        else:
            if ensembles is None or group not in ensembles.vectors:
                raise ValueError(
                    f"the group {group!r} is scored by the method {method}, which takes its words "
                    "in the templates of enhance.templates, and they were not given."
                )
            weights = np.float32(ensembles.logit_scale) * ensembles.vectors[group]
            scorer = GroupScorer(words, method, vocabulary.vectors[group], weights)
        scorers[group], calibration = calibrate_scorer(group, scorer, validation, params)
        metrics[group] = GroupFit(
            method=method,
            train_images=0,
            val_images=len(validation.of_group(group)),
            outside_vocabulary=0,
            unlabelled_words=[],
            calibration=calibration,
        )
    return FittedWords(WordScorer(scorers, palettes), metrics)


def _no_colors(group: str) -> str:
    return (
        f"enhance.methods: the method of the group {group!r} is pixels, and fewer than half of its "
        "words are names of colors: take another method, or give their colors in "
        "enhance.reference_colors."
    )


def fit_from_tables(
    paths: FittingPaths,
    vocabulary: Vocabulary,
    ensembles: PromptEnsembles | None,
    params: Enhance,
) -> FittedWords:
    """As :func:`fit_word_scorer`, of the tables that stages wrote.

    Truth of the test split is not looked at.

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
    train, outside = read_labelled(
        paths, "train", learnt, [group for group in colored if group in learnt], most
    )
    validation, _ = read_labelled(paths, "val", vocabulary.words, colored, most)
    fitted = fit_word_scorer(vocabulary, ensembles, train, validation, params)
    metrics = {
        group: fit | GroupFit(outside_vocabulary=outside.get(group, 0))  # type: ignore[typeddict-item]
        for group, fit in fitted.metrics.items()
    }
    return FittedWords(fitted.scorer, metrics)
