"""``metrics/summary.json``: the figures by which two runs are compared, each beside its baseline.

A figure is a group of a name, so that what belongs together stands together in ``dvc metrics diff``
and ``dvc exp show``: ``captions.bleu.finetuned`` above its baseline ``captions.bleu.untrained``.
What was not measured (no labels, no truth, no training) is absent: DVC then shows a dash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compositional_prompts.results.stage_metrics import Metrics, number, read_metrics

Figure = dict[str, float]
"""A value and its baselines by what they are of."""

Summary = dict[str, dict[str, Figure]]

_CAPTIONERS = {"base": "untrained"}
"""How the summary calls a captioner of ``scores.json``, where it has another name there."""

_TROIKA = {"auc": "auc", "best_hm": "harmonic_mean", "object_accuracy": "object"}
_TEXT = {"exact_match": ("exact_match",), "bleu": ("bleu", "mean")}


def summarize(metrics: Path) -> Summary:
    """The figures that decide, from the detail in the folder ``metrics``.

    Raises:
        MissingOutputError: a file of the detail is missing.
        ReportInputError: one is malformed.
    """
    scores = read_metrics(metrics / "scores.json")
    return _present(
        {
            "pairs": _pairs(read_metrics(metrics / "troika.json")),
            "words": _words(read_metrics(metrics / "enhance.json")),
            "training": _training(read_metrics(metrics / "finetune.json")),
            "captions": _texts(scores),
            "caption_words": _mentions(scores),
            "texts": _texts_to_use(read_metrics(metrics / "recommend.json")),
        }
    )


def _pairs(troika: Metrics) -> dict[str, dict[str, float | None]]:
    """Of Troika and of zero-shot CLIP; in the closed world, unless the open one alone was asked."""
    world = "closed" if "closed" in troika else "open"
    sources = {"troika": world, "zero_shot": f"zero_shot_{world}"}
    return {
        name: {label: number(troika, source, key) for label, source in sources.items()}
        for key, name in _TROIKA.items()
    }


def _words(enhance: Metrics) -> dict[str, dict[str, float | None]]:
    """Of every attribute group: how often the word is true, and the most frequent word would be."""
    return {
        group: {
            "cosine": number(enhance, group, "accuracy"),
            "majority": number(enhance, group, "majority_accuracy"),
        }
        for group in enhance
    }


def _training(finetune: Metrics) -> dict[str, dict[str, float | None]]:
    """The validation loss: the best of the epochs, and the worst, from which training came."""
    return {
        "val_loss": {
            "best": number(finetune, "val_loss", "min"),
            "worst": number(finetune, "val_loss", "max"),
        }
    }


def _texts(scores: Metrics) -> dict[str, dict[str, float | None]]:
    """Agreement with the enhanced prompt."""
    return {name: _each(scores, *keys) for name, keys in _TEXT.items()}


def _texts_to_use(recommend: Metrics) -> dict[str, dict[str, float | None]]:
    """On validation images: how many words are right in captions, and in enhanced prompts."""
    sources = ("caption", "enhanced")
    return {
        "right_words": {
            source: number(recommend, "validation", source, "right_words") for source in sources
        }
    }


def _mentions(scores: Metrics) -> dict[str, dict[str, float | None]]:
    """How often a caption holds the true word; an untrained one knows no template to put it in."""
    groups = dict.fromkeys(
        group for captioner in scores for group in _mapping(scores[captioner], "attributes")
    )
    return {
        str(group): _each(scores, "attributes", str(group), "mention_accuracy_vs_truth")
        for group in groups
    }


def _each(scores: Metrics, *keys: str) -> dict[str, float | None]:
    return {_CAPTIONERS.get(name, name): number(scores, name, *keys) for name in scores}


def _mapping(value: Any, key: str) -> Iterable[Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else ()


def _present(groups: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Summary:
    """Without what was not measured."""
    summary: Summary = {}
    for group, figures in groups.items():
        for name, values in figures.items():
            known = {label: value for label, value in values.items() if value is not None}
            if known:
                summary.setdefault(group, {})[name] = known
    return summary
