"""What the page needs for looking photos up: data, script, tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES
from compositional_prompts.reporting.browsing.coverage import CoverageCurve, coverage_curves
from compositional_prompts.reporting.browsing.inline_script import (
    LISTING,
    PHOTOS,
    as_json,
    content_policy,
    script,
)
from compositional_prompts.reporting.browsing.photo_records import PhotoTables, photo_records
from compositional_prompts.reporting.browsing.shown_photos import ShownPhotos, choose_shown
from compositional_prompts.reporting.content.formats import UNKNOWN, count, percent, words
from compositional_prompts.reporting.content.page_tables import Row, Table
from compositional_prompts.reporting.drawing.charts import Chart, Series
from compositional_prompts.reporting.drawing.thumbnails import read_small_photos

_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_TABLE_ROWS = 10


@dataclass(frozen=True, slots=True)
class PhotoParts:
    """Parts of the page by the names that its template has for them; the first four are markup."""

    photo_data: Markup
    photo_thumbnails: Markup
    script: Markup
    content_policy: str
    shown_sentence: str
    coverage_table: Table
    coverage_chart: Chart
    photos: int


def photo_parts(
    tables: PhotoTables,
    catalog: Path,
    vocabulary: Mapping[str, Sequence[str]],
    *,
    most: int,
    seed: int,
    workers: int,
) -> PhotoParts:
    """Choose at most ``most`` photos of ``catalog`` and gather what the tables say of them.

    Raises:
        MissingOutputError, DamagedOutputError, SchemaError, MismatchedOutputsError: a table or the
            catalog is missing, damaged, or not made from the same photos.
    """
    shown = choose_shown(tables.splits, most, seed)
    records = photo_records(tables, shown.image_ids, vocabulary)
    small = read_small_photos(catalog, shown.image_ids, workers)
    curves = coverage_curves(tables.prompts, tables.truth, tuple(vocabulary))
    text = script([LISTING, PHOTOS])
    return PhotoParts(
        photo_data=as_json(records),
        photo_thumbnails=as_json(
            {
                "paths": [small[image_id].path for image_id in shown.image_ids],
                "webp": [small[image_id].webp for image_id in shown.image_ids],
            }
        ),
        script=text,
        content_policy=content_policy(text),
        shown_sentence=shown_sentence(shown),
        coverage_table=coverage_table(curves),
        coverage_chart=coverage_chart(curves),
        photos=len(shown.image_ids),
    )


def shown_sentence(shown: ShownPhotos) -> str:
    """How many photos of each split can be looked up, and of how many."""
    parts = [
        f"{count(shown.shown[name])} of {count(shown.all[name])} {_SPLITS[name]}"
        if shown.is_sample
        else f"{count(shown.all[name])} {_SPLITS[name]}"
        for name in reversed(SPLIT_NAMES)
        if shown.all.get(name)
    ]
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    total = len(shown.image_ids)
    if not total:
        return "The catalog holds no photo."
    if shown.is_sample:
        return (
            f"These are {count(total)} of the catalog, which has "
            f"{count(sum(shown.all.values()))}: {listed} photos. "
            "report.photos of params.yaml raises that."
        )
    return f"These are all {count(total)} photos of the catalog: {listed} photos."


def coverage_chart(curves: Mapping[str, CoverageCurve]) -> Chart:
    """Accuracy over coverage, a line a group."""
    return Chart(
        "coverage",
        "Accuracy of the words kept",
        "share of them that is true",
        (),
        [Series(words(group), one.accuracy, one.coverage) for group, one in curves.items()],
        x_label="coverage: share of photos with a word",
    )


def coverage_table(curves: Mapping[str, CoverageCurve]) -> Table:
    """Thresholds at every tenth of coverage, with the accuracy that each leaves, by group."""
    names = {group: f"{words(group)}, {count(one.photos)} photos" for group, one in curves.items()}
    rows = []
    for tenth in range(_TABLE_ROWS, 0, -1):
        cells = []
        for one in curves.values():
            # Ties may jump over a tenth: the point is the first that keeps as much.
            at = next(
                i for i, kept in enumerate(one.coverage) if kept >= tenth / _TABLE_ROWS - 1e-9
            )
            nearest = one.coverage[at] < (tenth + 1) / _TABLE_ROWS - 1e-9
            cells += (
                [f"{one.thresholds[at]:.3f}", percent(one.accuracy[at])]
                if nearest
                else [UNKNOWN, UNKNOWN]
            )
        if any(cell != UNKNOWN for cell in cells):
            rows.append(Row(percent(tenth / _TABLE_ROWS), cells))
    return Table(
        "Words kept by a threshold, and how many of them are true",
        "Coverage at least",
        ["Threshold", "Accuracy"] * len(curves),
        rows if curves else [],
        groups=[(name, 2) for name in names.values()],
    )
