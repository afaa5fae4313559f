"""The page of a comparison: one HTML file, as the report is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.pipeline.dvc_file import DVC_FILE, stage_paths
from compositional_prompts.reporting.browsing.inline_script import (
    LISTING,
    as_json,
    content_policy,
    script,
)
from compositional_prompts.reporting.comparing.caption_changes import (
    BETTER,
    CHANGED,
    SAME,
    WORSE,
    TablePaths,
    caption_changes,
    most_telling,
)
from compositional_prompts.reporting.comparing.paired_figures import (
    FigureTables,
    PairedFigures,
    as_text,
    paired_figures,
    verdict,
)
from compositional_prompts.reporting.comparing.revision_files import WORKSPACE, open_revision
from compositional_prompts.reporting.content.formats import UNKNOWN, count, words
from compositional_prompts.reporting.content.page_tables import Row, Table, known_part
from compositional_prompts.reporting.drawing.thumbnails import read_small_photos
from compositional_prompts.reporting.page_environment import page_environment, page_style
from compositional_prompts.results.stage_metrics import Metrics, numbers, read_metrics

_SCRIPT = Path(__file__).with_name("comparison.js")
_KINDS = (WORSE, BETTER, CHANGED, SAME)


@dataclass(frozen=True, slots=True)
class ComparisonSettings:
    """How a comparison is made.

    Attributes:
        photos: most photos on the page.
        seed: decides which, where there are more.
        workers: threads that decode them.
    """

    photos: int
    seed: int
    workers: int


def write_comparison(
    first: str, second: str | None, page: Path, settings: ComparisonSettings, root: Path = Path()
) -> str:
    """Write ``page``: captions and figures of two revisions side by side.

    Returns what it shows in a sentence, and below it the paired differences of the figures.

    Args:
        first: a revision.
        second: another, or None for the workspace.
        page: file to write; it appears whole or not at all.
        settings: see there.
        root: of the project; ``dvc.yaml`` there says where tables lie.

    Raises:
        RevisionError: a revision, or what it kept, is not there.
        PipelineError: ``dvc.yaml`` is missing or has no such stages.
        MissingOutputError, SchemaError, MismatchedOutputsError, ValueError: as
            :func:`caption_changes` and :func:`read_small_photos`.
    """
    paths = stage_paths(root / DVC_FILE)
    report = paths["report"]
    tables = TablePaths(
        splits=report["splits"],
        prompts=report["prompts"],
        captions=report["captions"] / "finetuned.parquet",
        truth=report["truth"],
    )
    summary = paths["summary"]["summary"]
    figure_tables = FigureTables(
        splits=report["splits"],
        prompts=report["prompts"],
        original=report["original"],
        scores=report["scores"],
        truth=report["truth"],
    )
    names = first, second or WORKSPACE
    with ExitStack() as stack:
        one = stack.enter_context(
            open_revision(
                root,
                first,
                [tables.captions, tables.prompts],
                [summary, tables.splits, figure_tables.scores, figure_tables.original],
            )
        )
        other = stack.enter_context(
            open_revision(
                root,
                second,
                [
                    *(tables.captions, tables.prompts, tables.splits, tables.truth),
                    report["catalog"],
                ],
                [summary, figure_tables.scores, figure_tables.original],
            )
        )
        changes = caption_changes(one, other, tables)
        paired = paired_figures(one, other, figure_tables, names)
        shown = most_telling(changes, settings.photos, settings.seed)
        ids = [row["image_id"] for row in shown]
        small = read_small_photos(other / report["catalog"], ids, settings.workers)
        summaries = [_summary(folder / summary) for folder in (one, other)]
    text = script([LISTING, _SCRIPT])
    sentence = _sentence(len(changes.rows), changes.kinds, len(shown))
    rendered = (
        page_environment()
        .get_template("comparing/comparison.html.jinja")
        .render(
            first=names[0],
            second=names[1],
            style=page_style(),
            content_policy=content_policy(text),
            script=text,
            sentence=sentence,
            only=_only(names, changes.only_first, changes.only_second),
            paired=paired,
            forest=forest(paired),
            figures=known_part(figures_table(names, summaries)),
            without_figures=[name for name, one in zip(names, summaries, strict=True) if not one],
            kinds=[(kind, changes.kinds.get(kind, 0)) for kind in _KINDS],
            photo_data=as_json({"photos": shown, "places": changes.places, "names": names}),
            photo_thumbnails=as_json(
                {
                    "path": [small[image_id].path for image_id in ids],
                    "webp": [small[image_id].webp for image_id in ids],
                }
            ),
        )
    )
    with atomic_file(page) as temporary:
        temporary.write_text(rendered, encoding="utf-8")
    return f"{sentence}\n{as_text(paired, names)}"


@dataclass(frozen=True, slots=True)
class ForestRow:
    """A row of the drawing: texts, and places from 0 to 100 from left to right.

    Attributes:
        name, first, second, difference: as text.
        verdict: in a word or two.
        kind: the class of the verdict: ``right``, ``wrong`` or nothing.
        low, middle, high: of the interval and the difference; None where there is no interval.
    """

    name: str
    first: str
    second: str
    difference: str
    verdict: str
    kind: str
    low: float | None
    middle: float
    high: float | None


def forest(paired: PairedFigures) -> list[ForestRow]:
    """Every difference and its interval around 0, all to one scale; CIDEr-D, which goes to 10, to
    a tenth of it.
    """
    scaled = []
    for row in paired.rows:
        unit = 10.0 if row.name.endswith("CIDEr-D") else 1.0
        parts = (row.difference.low, row.second - row.first, row.difference.high)
        scaled.append([None if part is None else part / unit for part in parts])
    most = max((abs(part) for row in scaled for part in row if part is not None), default=0.0)
    rows = []
    for row, places in zip(paired.rows, scaled, strict=True):
        low, middle, high = (
            None if part is None else 50 + 48 * part / (most or 1.0) for part in places
        )
        said = verdict(row)
        bounds = row.difference.bounds
        between = "" if bounds is None else f" ({bounds[0]:+.3f} to {bounds[1]:+.3f})"
        rows.append(
            ForestRow(
                name=row.name[:1].upper() + row.name[1:],
                first=f"{row.first:.3f}",
                second=f"{row.second:.3f}",
                difference=f"{row.second - row.first:+.3f}{between}",
                verdict=said,
                kind={"better": "right", "worse": "wrong"}.get(said, ""),
                low=low,
                middle=50.0 if middle is None else middle,
                high=high,
            )
        )
    return rows


def figures_table(names: tuple[str, str], summaries: Sequence[Metrics]) -> Table:
    """Every figure of both ``metrics/summary.json``, and what the second has more."""
    flat = [numbers(summary) for summary in summaries]
    rows = []
    for key in dict.fromkeys(name for one in flat for name in one):
        values = [one.get(key) for one in flat]
        cells = [UNKNOWN if value is None else f"{value:.4g}" for value in values]
        before, after = values
        change = UNKNOWN if before is None or after is None else f"{after - before:+.4f}"
        rows.append(Row(words(key.replace(".", " \N{MIDDLE DOT} ")), [*cells, change]))
    return Table("Figures of both revisions", "Figure", [*names, "Change"], rows)


def _summary(path: Path) -> Metrics:
    """What an older revision may not have."""
    return read_metrics(path) if path.exists() else {}


def _sentence(photos: int, kinds: Mapping[str, int], shown: int) -> str:
    parts = ", ".join(f"{count(kinds.get(kind, 0))} {kind}" for kind in _KINDS)
    least = "" if shown == photos else f"; {count(shown)} of them are on the page"
    return f"{count(photos)} photos were captioned by both: {parts}{least}."


def _only(names: tuple[str, str], first: int, second: int) -> str:
    parts = [
        f"{count(photos)} only by {name}"
        for name, photos in zip(names, (first, second), strict=True)
        if photos
    ]
    return f"Captioned {' and '.join(parts)}: not shown." if parts else ""
