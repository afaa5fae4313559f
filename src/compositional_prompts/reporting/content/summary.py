"""The key figures on top of the page, and the sentence that sums them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compositional_prompts.reporting.content.formats import Bounds, count, percent, score, words
from compositional_prompts.reporting.content.published import TEXT_METRICS
from compositional_prompts.reporting.stage_results import StageResults
from compositional_prompts.results.stage_metrics import bounds, number


@dataclass(frozen=True, slots=True)
class Bar:
    """A value from 0 to 1 (or None) among those that a key figure is to be compared with."""

    name: str
    value: float | None
    text: str
    ours: bool

    @property
    def length(self) -> float:
        """The bar's length in per cent of the full one."""
        return 100 * min(max(self.value or 0.0, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A figure of the summary with what it is to be compared with."""

    label: str
    value: str
    bars: Sequence[Bar] = ()
    note: str | None = None


def key_figures(results: StageResults) -> list[KeyFigure]:
    """Images, accuracy of the first group with known truth (color before others), Troika, how often
    captions hold that group's true word, BLEU.

    What could not be measured, as without labels, is left out.
    """
    figures = [_images(results), _objects(results)]
    group = _measured_group(results)
    if group is not None:
        figures.append(
            _compared(
                f"{words(group).capitalize()} accuracy",
                percent,
                [
                    ("CLIP", number(results.enhance, group, "accuracy"), True),
                    ("pixels", number(results.enhance, group, "pixel_accuracy"), False),
                    ("majority", number(results.enhance, group, "majority_accuracy"), False),
                ],
                bounds(results.enhance, group, "accuracy"),
            )
        )
    only_open = "open" in results.troika and "closed" not in results.troika
    world = "open" if only_open else "closed"
    for key, label in (("best_hm", "Troika harmonic mean"), ("auc", "Troika AUC")):
        figures.append(
            _compared(
                f"{label}, open world" if only_open else label,
                percent,
                [
                    ("Troika", number(results.troika, world, key), True),
                    ("zero-shot", number(results.troika, f"zero_shot_{world}", key), False),
                ],
                bounds(results.troika, world, key),
            )
        )
    if group is not None:
        said = ("attributes", group, "mention_accuracy_vs_truth")
        figures.append(
            _compared(
                f"True {words(group)} in captions",
                percent,
                [
                    ("fine-tuned", number(results.scores, "finetuned", *said), True),
                    ("untrained", number(results.scores, "base", *said), False),
                ],
                bounds(results.scores, "finetuned", *said),
            )
        )
    figures.append(
        _compared(
            "BLEU of captions",
            score,
            [
                ("fine-tuned", number(results.scores, "finetuned", "bleu", "mean"), True),
                ("untrained", number(results.scores, "base", "bleu", "mean"), False),
                ("the report", TEXT_METRICS["bleu"]["mean"], False),
            ],
            bounds(results.scores, "finetuned", "bleu", "mean"),
        )
    )
    figures.append(
        _compared(
            "Captions word for word",
            percent,
            [
                ("fine-tuned", number(results.scores, "finetuned", "exact_match"), True),
                ("untrained", number(results.scores, "base", "exact_match"), False),
            ],
            bounds(results.scores, "finetuned", "exact_match"),
        )
    )
    return [figure for figure in figures if not figure.bars or figure.bars[0].value is not None]


def sentence(results: StageResults) -> str | None:
    """What fine-tuning did to mean BLEU, and how that stands to the report's average."""
    base = number(results.scores, "base", "bleu", "mean")
    fine = number(results.scores, "finetuned", "bleu", "mean")
    if base is None or fine is None:
        return None
    change = "raised" if fine > base else "lowered" if fine < base else "left unchanged"
    images = number(results.scores, "finetuned", "images")
    where = "" if images is None else f" on {images:,.0f} images"
    course = f"at {fine:.3f}" if fine == base else f"from {base:.3f} to {fine:.3f}"
    return (
        f"Fine-tuning {change} the mean BLEU of the captions{where} {course}; "
        f"the report's average is {TEXT_METRICS['bleu']['mean']:.3f}."
    )


def _objects(results: StageResults) -> KeyFigure:
    """Where labels are objects alone, how many are named rightly: there are no pairs to measure."""
    alone = "majority_closed" in results.troika
    values = [
        (
            name,
            number(results.troika, f"{prefix}closed", "object_accuracy") if alone else None,
            prefix == "",
        )
        for name, prefix in (("Troika", ""), ("zero-shot", "zero_shot_"), ("majority", "majority_"))
    ]
    own = bounds(results.troika, "closed", "object_accuracy")
    return _compared("Objects named right", percent, values, own)


def _images(results: StageResults) -> KeyFigure:
    parts = [
        f"{count(value)} {name}"
        for name in ("products", "pairs" if results.download.get("pairs") else "objects")
        if (value := number(results.download, name))
    ]
    rejected = sum((number(results.download, "rejected", key) or 0.0) for key in _reasons(results))
    if rejected:
        parts.append(f"{count(rejected)} set aside")
    return KeyFigure("Images", count(number(results.download, "images")), note=" · ".join(parts))


def _reasons(results: StageResults) -> list[str]:
    return list(results.download.get("rejected") or {})


def _measured_group(results: StageResults) -> str | None:
    known = [
        group for group in results.enhance if number(results.enhance, group, "accuracy") is not None
    ]
    return "color" if "color" in known else next(iter(known), None)


def _compared(
    label: str,
    form: Callable[[float | None], str],
    values: Sequence[tuple[str, float | None, bool]],
    interval: Bounds,
) -> KeyFigure:
    # What is compared stands first, known or not; of the rest only what is known.
    bars = [
        Bar(name, value, form(value), ours)
        for name, value, ours in values
        if ours or value is not None
    ]
    note = None if interval is None else f"95 %: {form(interval[0])} to {form(interval[1])}"
    return KeyFigure(label, bars[0].text, bars, note)
