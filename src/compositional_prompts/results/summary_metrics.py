"""``metrics/summary.json``: the figures by which two runs are compared, each beside its baseline.

A figure stands in a group, and its baselines below it under its name with theirs, short enough for
a column of ``dvc exp show``: ``captions.bleu``, then ``captions.bleu_untrained``. What was not
measured (no labels, no truth, no training) is absent: DVC then shows a dash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compositional_prompts.results.stage_metrics import Metrics, number, read_metrics

Figures = dict[str, float | None]

_CAPTIONERS = {"finetuned": "", "base": "_untrained", "finetuned_free": "_free"}
"""What captioners of ``scores.json`` add to the name of a figure."""

_TROIKA = {"auc": "auc", "best_hm": "hm", "object_accuracy": "object"}
_TEXT = {"exact": ("exact_match",), "bleu": ("bleu", "mean"), "cider": ("cider_d", "mean")}


def summarize(metrics: Path) -> dict[str, dict[str, float]]:
    """The figures that decide, from the detail in the folder ``metrics``.

    ``pairs``: Troika's, and zero-shot CLIP's. ``words``: how often the word chosen is true, and the
    most frequent one would be. ``finetune``: the best validation loss, and the worst, from which
    training came. ``captions``: agreement with the enhanced prompt. ``says``: how often a caption
    holds the true word. ``texts``: of all words known of validation images, the share that captions
    say rightly, and enhanced prompts.

    Raises:
        MissingOutputError: a file of the detail is missing.
        ReportInputError: one is malformed.
    """
    scores = read_metrics(metrics / "scores.json")
    recommend = read_metrics(metrics / "recommend.json")
    finetune = read_metrics(metrics / "finetune.json")
    groups = {
        "pairs": _pairs(read_metrics(metrics / "troika.json")),
        "words": _words(read_metrics(metrics / "enhance.json")),
        "finetune": {
            "val_loss": number(finetune, "val_loss", "min"),
            "val_loss_worst": number(finetune, "val_loss", "max"),
        },
        "captions": _of_captions(scores, _TEXT),
        "says": _of_captions(scores, _places(scores)),
        "texts": {
            "right": number(recommend, "validation", "caption", "right_words"),
            "right_enhanced": number(recommend, "validation", "enhanced", "right_words"),
        },
    }
    present = {
        group: {name: value for name, value in figures.items() if value is not None}
        for group, figures in groups.items()
    }
    return {group: figures for group, figures in present.items() if figures}


def _pairs(troika: Metrics) -> Figures:
    """In the closed world, unless the open one alone was asked."""
    world = "closed" if "closed" in troika else "open"
    figures: Figures = {}
    for key, name in _TROIKA.items():
        figures[name] = number(troika, world, key)
        figures[f"{name}_zero_shot"] = number(troika, f"zero_shot_{world}", key)
        # Where labels are objects alone, there is this baseline too.
        figures[f"{name}_majority"] = number(troika, f"majority_{world}", key)
    return figures


def _words(enhance: Metrics) -> Figures:
    figures: Figures = {}
    for group in enhance:
        figures[group] = number(enhance, group, "accuracy")
        figures[f"{group}_majority"] = number(enhance, group, "majority_accuracy")
    return figures


def _of_captions(scores: Metrics, paths: Mapping[str, Iterable[str]]) -> Figures:
    """A figure of every captioner, by the path of its value."""
    captioners = sorted(scores, key=lambda name: (name not in _CAPTIONERS, name != "finetuned"))
    return {
        f"{name}{_CAPTIONERS.get(captioner, f'_{captioner}')}": number(scores, captioner, *path)
        for name, path in paths.items()
        for captioner in captioners
    }


def _places(scores: Metrics) -> dict[str, tuple[str, ...]]:
    """Where the mentions of each place stand; an untrained captioner knows no template."""
    places: dict[str, tuple[str, ...]] = {}
    for values in scores.values():
        attributes: Any = values.get("attributes") if isinstance(values, Mapping) else None
        for place in attributes if isinstance(attributes, Mapping) else ():
            places[str(place)] = ("attributes", str(place), "mention_accuracy_vs_truth")
    return places
