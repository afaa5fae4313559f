"""What the page says of models that stay while the catalogue grows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compositional_prompts.reporting.content.formats import UNKNOWN, count, percent, words
from compositional_prompts.reporting.content.page_tables import Row, Table
from compositional_prompts.reporting.stage_results import StageResults
from compositional_prompts.results.stage_metrics import Metrics, number

_PARTS = {
    "held_out": "Held out when it was trained",
    "trained": "Trained with",
    "new": "New since",
}
_MOST = 50
"""Unknown names that the page lists of a model."""


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A kept model on the page.

    Attributes:
        name: what it is called.
        origin: by which data and when it was trained.
        drift: its photos of then and of now.
        unknown: labels and words that it does not know.
        more: how many of these are left out.
        then: what was measured of it when it was kept, beside the same figures of today.
    """

    name: str
    origin: str
    drift: Table
    unknown: Table
    more: int
    then: Table


def kept_models(results: StageResults, today: Mapping[str, Mapping[str, float]]) -> list[KeptModel]:
    """The models that were not trained in this run, but kept from an earlier one.

    Args:
        results: of all stages.
        today: the figures that decide, as ``summary.json`` has them.
    """
    stages = {
        "troika": ("Troika", results.troika_train),
        "captioner": ("The adapter of BLIP-2", results.finetune),
    }
    return [
        _kept(name, _mapping(metrics, "origin"), _mapping(results.drift, key), today)
        for key, (name, metrics) in stages.items()
        if _mapping(metrics, "origin")
    ]


def _kept(
    name: str, origin: Metrics, drift: Metrics, today: Mapping[str, Mapping[str, float]]
) -> KeptModel:
    unknown = list(_unknown(drift))
    return KeptModel(
        name,
        _told(name, origin, drift),
        _drift_table(drift),
        Table("Labels and words that it does not know", "", ["Kind", "Photos"], unknown[:_MOST]),
        max(0, len(unknown) - _MOST),
        _then_table(origin, today),
    )


def _told(name: str, origin: Metrics, drift: Metrics) -> str:
    learnt = count(number(origin, "train_images"))
    commit, committed = origin.get("commit"), origin.get("committed")
    when = f", in commit {str(commit)[:10]} of {_day(committed)}" if commit else ""
    new, gone = number(drift, "photos", "new"), number(drift, "photos", "gone")
    since = "" if new is None else f" {count(new)} photos have come since"
    since += f", {count(gone)} of then are gone." if gone else "." if since else ""
    return (
        f"{name} was not trained in this run. It learnt from {learnt} of the "
        f"{count(number(origin, 'images'))} photos that the catalogue had{when}, and is kept since "
        f"{_day(origin.get('kept'))}.{since}"
    )


def _day(moment: object) -> str:
    return str(moment).partition("T")[0] if moment else UNKNOWN


def _drift_table(drift: Metrics) -> Table:
    unsure = _mapping(drift, "unsure")
    rows = [
        Row(
            _capitalized(place),
            [
                _share(number(parts, part, "share"), number(parts, part, "photos"))
                for part in _PARTS
            ],
        )
        for place, parts in unsure.items()
        if isinstance(parts, Mapping)
    ]
    photos = [count(number(drift, "photos", part)) for part in _PARTS]
    return Table(
        "Photos that it is unsure of",
        "",
        list(_PARTS.values()),
        [*rows, Row("Photos in all", photos)] if rows else [],
    )


def _share(share: float | None, photos: float | None) -> str:
    return UNKNOWN if share is None else f"{percent(share)} ({count(photos)})"


def _unknown(drift: Metrics) -> Iterator[Row]:
    for kind, counts in _mapping(drift, "unknown").items():
        for name in _mapping(drift, "unknown", kind):
            yield Row(str(name), [words(str(kind)), count(number(counts, name))])


def _then_table(origin: Metrics, today: Mapping[str, Mapping[str, float]]) -> Table:
    rows = []
    for group, figures in _mapping(origin, "measured").items():
        for name in figures if isinstance(figures, Mapping) else ():
            if name.endswith(("_untrained", "_free", "_zero_shot", "_majority")):
                continue
            then, now = number(figures, name), today.get(group, {}).get(name)
            rows.append(Row(f"{_capitalized(group)}: {words(name)}", [percent(then), percent(now)]))
    return Table("On test images, then and now", "", ["When it was kept", "Now"], rows)


def _capitalized(name: str) -> str:
    text = words(name)
    return text[:1].upper() + text[1:]


def _mapping(metrics: Metrics, *keys: str) -> Metrics:
    value: object = metrics
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
