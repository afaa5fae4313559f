"""What can be measured where labels are objects alone, beside what most training images have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from compositional_prompts.results.bootstrap import Bootstrap, beside
from compositional_prompts.results.czsl_figures import JudgedImages
from compositional_prompts.troika.evaluation.measured_worlds import MeasuredImages
from compositional_prompts.troika.model.pair_vocabulary import LabelledImages, Vocabulary

_OF_ATTRIBUTES: Final = ("attribute_accuracy", "attribute_accuracy_interval")

_SCORERS: Final = MappingProxyType({"": "troika_closed", "zero_shot_": "zero_shot_closed"})
"""Prefixes in metrics, and names among judgements, of what is compared with the baseline."""


def beside_majority(
    training: LabelledImages,
    measured: MeasuredImages,
    vocabulary: Vocabulary,
    judged: Mapping[str, JudgedImages],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The object that most training images have, as a baseline that looks at no image.

    Args:
        training: training images; of equally frequent objects the first by the alphabet counts.
        measured: of which the test images are judged.
        vocabulary: the objects.
        judged: how the test images were judged, by scorer and world.

    Returns:
        ``object``, ``object_accuracy`` of the test images with its interval, ``images`` and
        ``products``; and by the prefix of each scorer, what it has right more than that, paired.
        Nothing is known (None) without training images, or without test images.
    """
    counts = Counter(vocabulary.pairs[pair][1] for pair in training.pairs.tolist())
    chosen = min(counts, key=lambda name: (-counts[name], name)) if counts else None
    tested = measured.pairs[measured.tested].tolist()
    right = np.array([vocabulary.pairs[pair][1] == chosen for pair in tested], np.bool_)
    bootstrap = Bootstrap(measured.products[measured.tested])
    known = np.full(len(right), chosen is not None)
    leads = {
        prefix: beside(
            {"object_accuracy": bootstrap.difference(judged[name].object_hit, right, known)}
        )
        for prefix, name in _SCORERS.items()
        if name in judged
    }
    majority = {
        "object": chosen,
        **beside({"object_accuracy": bootstrap.mean(right, known)}),
        "images": len(right),
        "products": bootstrap.products(known),
    }
    return majority, leads


def without_attributes(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics in which no accuracy of attributes is known: None, at whatever depth it stands."""
    return {
        key: None
        if key in _OF_ATTRIBUTES
        else without_attributes(value)
        if isinstance(value, Mapping)
        else value
        for key, value in metrics.items()
    }
