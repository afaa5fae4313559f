"""The tables of the page, their cells already in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from compositional_prompts.reporting.content.formats import (
    UNKNOWN,
    Bounds,
    count,
    percent,
    percent_between,
    score,
    score_between,
    words,
)
from compositional_prompts.reporting.content.published import LOSSES, TEXT_METRICS
from compositional_prompts.results.bootstrap import TRUSTED_PRODUCTS
from compositional_prompts.results.stage_metrics import Metrics, bounds, number, numbers

_FREE = "finetuned_free"
THE_REPORT = "The report"

_TEXT_METRICS = {
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "cider_d": "CIDEr-D (0 to 10)",
    "meteor_stem": "METEOR, exact and stem",
    "bert_score": "BERTScore",
    "cosine": "Cosine of text vectors",
    "clip_score": "CLIPScore (0 to 2.5)",
    "ref_clip_score": "RefCLIPScore",
}
_TROIKA_METRICS = {
    "best_seen": "Best seen",
    "best_unseen": "Best unseen",
    "best_hm": "Best harmonic mean",
    "auc": "Area under the seen-unseen curve (AUC)",
    "attribute_accuracy": "Attribute accuracy",
    "object_accuracy": "Object accuracy",
}
_SAMPLED = {
    "best_seen": "Best seen",
    "best_unseen": "Best unseen",
    "best_hm": "Best harmonic mean",
    "auc": "AUC",
}
_UNTHRESHOLDED = {"best_unseen": "Best unseen", "best_hm": "Best harmonic mean", "auc": "AUC"}
_WORLDS = {"closed": "Closed world", "open": "Open world"}
_SCORERS = {"": "Troika", "zero_shot_": "Zero-shot CLIP"}
_MAJORITY = "majority_"
"""Of the baseline that says one object of every photo, where labels are objects alone."""
_BRANCHES = {
    "": "Troika",
    "composition_": "Composition alone",
    "primitives_": "Primitives alone",
    "unweighted_": "Both, weights of 1",
    "zero_shot_": "Zero-shot CLIP",
}
_CALIBRATED = {
    "hm": "Harmonic mean of seen and unseen accuracy",
    "attribute_accuracy": "Attribute accuracy",
    "object_accuracy": "Object accuracy",
}
_Form = Callable[[float | None, Bounds], str]
"""Writes a figure and its interval, where it has one."""


def _count(value: float | None, _: Bounds) -> str:
    return count(value)


_ENHANCE_METRICS: Mapping[str, tuple[str, _Form]] = {
    "accuracy": ("Accuracy", percent_between),
    "accuracy_in_vocabulary": ("Accuracy in vocabulary", percent_between),
    "coverage": ("Coverage", percent_between),
    "majority_accuracy": ("Majority class", percent_between),
    "pixel_accuracy": ("Nearest pixel color", percent_between),
    "images_with_truth": ("Images with truth", _count),
}
_ALTERATIONS = {
    "jpeg": "Saved again as JPEG",
    "resize": "Reduced and brought back",
    "crop": "Cropped",
}
_ATTRIBUTE_METRICS = {
    "accuracy_vs_enhanced": "against the prompt",
    "accuracy_vs_truth": "against truth",
    "mention_accuracy_vs_truth": "truth mentioned",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its heading and the text of its cells."""

    head: str
    cells: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; ``groups`` are headings over columns and how many each spans, all as many.

    ``reference`` counts the last columns that quote published figures and not this run's.
    """

    caption: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[Row]
    groups: Sequence[tuple[str, int]] = ()
    reference: int = 0


def captioners(scores: Metrics) -> dict[str, str]:
    """The captioners that ``scores.json`` compares, and what they are called."""
    if _FREE not in scores:
        return {"base": "Untrained", "finetuned": "Fine-tuned"}
    return {
        "base": "Untrained",
        _FREE: "Fine-tuned, written freely",
        "finetuned": "Fine-tuned, by grammar",
    }


def known_part(table: Table) -> Table:
    """``table`` without rows in which nothing is known, or nothing was counted (all of it is 0),
    and without columns in which nothing is known; quoted figures alone keep no row.
    """
    own = len(table.columns) - table.reference
    rows = [row for row in table.rows if set(row.cells[:own]) - {UNKNOWN} - {"0"}]
    span = table.groups[0][1] if table.groups else len(table.columns)
    kept = [
        place
        for place in range(span)
        if any(set(row.cells[place::span]) - {UNKNOWN} for row in rows)
    ]

    def of(cells: Sequence[str]) -> list[str]:
        return [cell for index, cell in enumerate(cells) if index % span in kept]

    return replace(
        table,
        columns=of(table.columns),
        rows=[Row(row.head, of(row.cells)) for row in rows],
        groups=[(name, len(kept)) for name, _ in table.groups],
        reference=len(kept) if table.reference else 0,
    )


def counts_table(caption: str, corner: str, metrics: Metrics, *keys: str) -> Table:
    """All counts below a path of keys, one a row, largest first where they are reasons."""
    rows = [Row(_words(name), [_plain(value)]) for name, value in numbers(metrics, *keys).items()]
    return Table(caption, corner, ["Count"], rows)


def troika_table(troika: Metrics) -> Table:
    """Metrics of Troika beside those of zero-shot CLIP, in each world that was measured.

    The exact metrics come first; below them those of the sampled protocol, the open world's without
    a threshold, and the threshold and counts behind them, each where there is one.
    """
    scorers = dict(_SCORERS)
    alone = _MAJORITY + "closed" in troika
    if alone:
        scorers[_MAJORITY] = f"Always {words(str(troika[_MAJORITY + 'closed'].get('object')))}"
    worlds = {
        world: name
        for world, name in _WORLDS.items()
        if any(scorer + world in troika for scorer in scorers)
    }
    columns = [scorer + world for world in worlds for scorer in scorers]

    def rows(names: Mapping[str, str], form: Callable[[float], str], *path: str) -> list[Row]:
        return _measured_rows(troika, columns, names, form, *path)

    exact = [
        Row(name, [_figure(percent_between, troika, column, key) for column in columns])
        for key, name in _TROIKA_METRICS.items()
    ]
    sampled = {key: f"{name}, about 20 biases" for key, name in _SAMPLED.items()}
    unthresholded = {key: f"{name}, no threshold" for key, name in _UNTHRESHOLDED.items()}
    counts = {
        key: _words(key)
        for column in columns
        for key in numbers(troika, column)
        if key not in _TROIKA_METRICS and "." not in key and key != "threshold"
    }
    return Table(
        f"Naming the {'object' if alone else 'pair'}, test images",
        "Metric",
        [*scorers.values()] * len(worlds),
        [
            *exact,
            *rows(sampled, percent, "sampled"),
            *rows(unthresholded, percent, "unthresholded"),
            *rows({"threshold": "Least feasibility"}, score),
            *rows(counts, _plain),
        ],
        groups=[(name, len(scorers)) for name in worlds.values()],
    )


def branches_table(troika: Metrics) -> Table:
    """What each branch of Troika gives by itself in the closed world; empty where it has none.

    Below come the accuracies at the bias on unseen pairs that validation images chose.
    """
    columns = [branch + "closed" for branch in _BRANCHES]
    if "composition_closed" not in troika:
        columns = []
    at_bias = {key: f"{name}, at the bias of validation" for key, name in _CALIBRATED.items()}
    rows = [
        *_measured_rows(troika, columns, _TROIKA_METRICS, percent),
        *_measured_rows(troika, columns, at_bias, percent, "calibrated"),
    ]
    headings = list(_BRANCHES.values()) if columns else []
    return Table("What each branch gives, closed world, test images", "Metric", headings, rows)


def _measured_rows(
    troika: Metrics,
    columns: Sequence[str],
    names: Mapping[str, str],
    form: Callable[[float], str],
    *path: str,
) -> list[Row]:
    """A row of every metric that one of the columns has below a path of keys."""
    found = []
    for key, name in names.items():
        values = [number(troika, column, *path, key) for column in columns]
        if any(value is not None for value in values):
            found.append(Row(name, [UNKNOWN if value is None else form(value) for value in values]))
    return found


def enhancement_table(enhance: Metrics) -> Table:
    """The chosen words against truth, beside both baselines, an attribute group a row."""
    rows = [
        Row(
            _words(group),
            [_figure(form, enhance, group, key) for key, (_, form) in _ENHANCE_METRICS.items()],
        )
        for group in enhance
    ]
    headings = [heading for heading, _ in _ENHANCE_METRICS.values()]
    return Table("Words chosen by CLIP against the truth", "Group", headings, rows)


def stability_table(stability: Metrics) -> Table:
    """How many words stay when a photo is altered, and how many are true, by group and method."""
    rows = [
        Row(
            f"{_words(group)}, {_words(method)}",
            [
                UNKNOWN,
                percent(number(stability, group, "methods", method, "accuracy")),
                *(
                    percent(number(stability, group, "methods", method, alteration, key))
                    for alteration in _ALTERATIONS
                    for key in ("same", "accuracy")
                ),
            ],
        )
        for group, found in stability.items()
        for method in found["methods"]
    ]
    groups = ["As they are", *_ALTERATIONS.values()]
    return Table(
        "Words of altered photos, test split",
        "Group, method",
        ["Stay", "True"] * len(groups),
        rows,
        groups=[(name, 2) for name in groups],
    )


def certainty_table(enhance: Metrics, word_scorer: Metrics) -> Table:
    """How sure and how true words are on test images, and how many are left out, a group a row."""
    rows = []
    for group in enhance:
        held_out = enhance[group].get("held_out") or {}
        wanted = number(word_scorer, group, "calibration", "abstain", "precision")
        rows.append(
            Row(
                _words(group),
                [
                    count(number(held_out, "images")),
                    percent(wanted),
                    _between(held_out, "precision"),
                    _between(held_out, "coverage"),
                    count(number(enhance, group, "abstained")),
                    _between(held_out, "ece"),
                    percent(number(held_out, "ece_by_chance")),
                    score(number(held_out, "aurc")),
                ],
            )
        )
    return Table(
        "How sure the words are, test images with truth",
        "Group",
        [
            *("Images", "Precision wanted", "Precision", "Coverage", "Left out, of all photos"),
            *("Calibration error", "By chance alone", "Area under risk and coverage"),
        ],
        rows,
    )


def _between(metrics: Metrics, key: str) -> str:
    """A share and its 95 % interval, where it has one: ``50.6 % (44 to 57)``."""
    ends = metrics.get(f"{key}_interval")
    text = percent(number(metrics, key))
    return text if not ends else f"{text} ({100 * ends[0]:.0f} to {100 * ends[1]:.0f})"


def loss_table(finetune: Metrics) -> Table:
    """Table 1: smallest, largest and mean loss over the epochs, ours and the report's."""
    kinds = {"min": "Min", "max": "Max", "mean": "Mean"}
    rows = [
        Row(
            name,
            [score(number(finetune, key, kind)) for kind in kinds]
            + [f"{LOSSES[key][kind]}" for kind in kinds],
        )
        for key, name in (("train_loss", "Training"), ("val_loss", "Validation"))
    ]
    return Table(
        "Table 1. Loss over the epochs (cross-entropy, nats a token)",
        "Loss",
        [*kinds.values()] * 2,
        rows,
        groups=[("This run", 3), (THE_REPORT, 3)],
        reference=3,
    )


def text_metrics_table(scores: Metrics) -> Table:
    """Table 2: best, average and worst of every text metric, ours and the report's."""
    names = captioners(scores)
    kinds = {"best": "Best", "mean": "Average", "worst": "Worst"}
    rows = [
        Row(
            name,
            [
                _figure(score_between, scores, captioner, metric, kind)
                for captioner in names
                for kind in kinds
            ]
            + [_quoted(metric, kind) for kind in kinds],
        )
        for metric, name in _TEXT_METRICS.items()
    ]
    groups = [*((name, 3) for name in names.values()), (THE_REPORT, 3)]
    return Table(
        "Table 2. Generated captions against the enhanced prompts (by machine)",
        "Metric",
        [*kinds.values()] * len(groups),
        rows,
        groups=groups,
        reference=3,
    )


def agreement_table(scores: Metrics) -> Table:
    """Exact matches and CLIP's preferences of both captioners."""
    names = captioners(scores)
    metrics: list[tuple[str, Callable[[float | None], str], tuple[str, ...]]] = [
        ("Images", count, ("images",)),
        ("Exact match", percent, ("exact_match",)),
        ("Follows the template", percent, ("well_formed",)),
        ("CLIP prefers the caption", count, ("clip_preference", "caption")),
        ("CLIP prefers the enhanced prompt", count, ("clip_preference", "enhanced")),
        ("CLIP prefers neither", count, ("clip_preference", "tie")),
        ("Prompts that CIDEr-D cannot tell apart", count, ("indistinct_references",)),
    ]
    rows = [
        Row(name, [form(number(scores, captioner, *keys)) for captioner in names])
        for name, form, keys in metrics
    ]
    return Table("Exact matches and CLIP preference", "", list(names.values()), rows)


def attributes_table(scores: Metrics) -> Table:
    """Accuracy of each part of the caption, of both captioners."""
    names = captioners(scores)
    slots = dict.fromkeys(
        slot for captioner in names for slot in _mapping(scores, captioner, "attributes")
    )
    rows = [
        Row(
            _words(slot),
            [
                _figure(percent_between, scores, captioner, "attributes", slot, key)
                for captioner in names
                for key in _ATTRIBUTE_METRICS
            ],
        )
        for slot in slots
    ]
    return Table(
        "Accuracy of each part of the caption",
        "Part",
        [*_ATTRIBUTE_METRICS.values()] * len(names),
        rows,
        groups=[(name, len(_ATTRIBUTE_METRICS)) for name in names.values()],
    )


def leads_table(enhance: Metrics, troika: Metrics, scores: Metrics, recommend: Metrics) -> Table:
    """By how much what was learnt exceeds its baselines on the same images, and whether that may be
    chance: whether the 95 % interval of the paired difference holds 0.
    """
    rows = []

    def add(head: str, metrics: Metrics, path: Sequence[str], of: str, less: Sequence[str]) -> None:
        """A row of the figure ``of`` at a path, and its baseline's at another."""
        lead = (*path, "minus", less[0], *of.split("."))
        difference, interval = number(metrics, *lead), bounds(metrics, *lead)
        if difference is None or interval is None:
            return
        own = number(metrics, *path, *of.split("."))
        other = number(metrics, *less[1:])
        chance = (
            "may be chance"
            if interval[0] <= 0 <= interval[1]
            else "more"
            if difference > 0
            else "less"
        )
        cells = [score(own), score(other), f"{difference:+.3f}", _span(interval), chance]
        rows.append(Row(head, cells))

    for group in enhance:
        name = f"{_words(group)} words, over"
        add(
            f"{name} the majority",
            enhance,
            (group,),
            "accuracy",
            ("majority", group, "majority_accuracy"),
        )
        add(f"{name} pixels", enhance, (group,), "accuracy", ("pixel", group, "pixel_accuracy"))
    for world, title in _WORLDS.items():
        for key, name in (
            ("auc", "AUC"),
            ("best_hm", "harmonic mean"),
            ("attribute_accuracy", "attribute"),
            ("object_accuracy", "object"),
        ):
            add(
                f"Troika, {title.lower()}, {name}, over zero-shot CLIP",
                *(troika, (world,), key, ("zero_shot", f"zero_shot_{world}", key)),
            )
    add(
        "Troika, object, over the majority",
        *(troika, ("closed",), "object_accuracy"),
        ("majority", f"{_MAJORITY}closed", "object_accuracy"),
    )
    for other, name in (("base", "untrained"), (_FREE, "written freely")):
        for of, figure in (("exact_match", "word for word"), ("bleu.mean", "BLEU")):
            add(
                f"Captions, {figure}, over {name}",
                *(scores, ("finetuned",), of, (other, other, *of.split("."))),
            )
        for slot in _mapping(scores, "finetuned", "attributes"):
            of = f"attributes.{slot}.mention_accuracy_vs_truth"
            add(
                f"Captions, true {words(slot)} said, over {name}",
                *(scores, ("finetuned",), of, (other, other, *of.split("."))),
            )
    path = ("validation", "caption")
    add(
        "Right words of validation, captions over enhanced prompts",
        *(recommend, path, "right_words", ("enhanced", "validation", "enhanced", "right_words")),
    )
    columns = ["Here", "Baseline", "Difference", "95 % interval", "Is it more?"]
    return Table("What is more than chance, on the same images", "Figure", columns, rows)


def few_products(products: float | None) -> str | None:
    """What to say of intervals over so many products; None where there are enough of them."""
    if products is None or products >= TRUSTED_PRODUCTS:
        return None
    return (
        f"Only {count(products)} products were measured: with fewer than {TRUSTED_PRODUCTS} the "
        "intervals are too narrow and are not to be trusted."
    )


def _figure(form: _Form, metrics: Metrics, *keys: str) -> str:
    return form(number(metrics, *keys), bounds(metrics, *keys))


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _mapping(metrics: Metrics, *keys: str) -> Metrics:
    value: object = metrics
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _quoted(metric: str, kind: str) -> str:
    return f"{TEXT_METRICS[metric][kind]}" if metric in TEXT_METRICS else UNKNOWN


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def _words(name: str) -> str:
    text = words(name.replace(".", " · "))
    return text[:1].upper() + text[1:]
