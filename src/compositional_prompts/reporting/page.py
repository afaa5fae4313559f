"""The report: one HTML page with everything inside it, and the figures as files of their own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from compositional_prompts.datasets.dataset import Caveat
from compositional_prompts.files.outputs import atomic_directory, atomic_file
from compositional_prompts.reporting.browsing.page_parts import PhotoParts, photo_parts
from compositional_prompts.reporting.browsing.photo_records import PhotoTables
from compositional_prompts.reporting.browsing.set_aside import read_set_aside
from compositional_prompts.reporting.content import page_tables as tables
from compositional_prompts.reporting.content import summary
from compositional_prompts.reporting.content.confusion import tabulate
from compositional_prompts.reporting.content.galleries import Galleries, Tables, build_galleries
from compositional_prompts.reporting.content.kept_tables import kept_models
from compositional_prompts.reporting.content.versions import library_versions
from compositional_prompts.reporting.drawing import layout
from compositional_prompts.reporting.drawing.certainty_charts import (
    reliability_chart,
    risk_coverage_chart,
)
from compositional_prompts.reporting.drawing.charts import (
    Chart,
    Series,
    inline,
    render,
    write_chart,
)
from compositional_prompts.reporting.drawing.pipeline_graph import read_pipeline
from compositional_prompts.reporting.drawing.thumbnails import (
    as_data_uris,
    read_thumbnails,
    write_contact_sheet,
)
from compositional_prompts.reporting.page_environment import page_environment, page_style
from compositional_prompts.reporting.stage_results import (
    Curve,
    StageResults,
    read_results,
)
from compositional_prompts.results.stage_metrics import number, numbers
from compositional_prompts.results.summary_metrics import summarize

log = logging.getLogger(__name__)

CONTACT_SHEET = "dataset.jpg"
_CONTACT_IMAGES = 32


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where the report reads and writes."""

    dvc_yaml: Path
    params: Path
    catalog: Path
    truth: Path
    rejected: Path
    splits: Path
    original: Path
    prompts: Path
    captions: Path
    recommended: Path
    scores: Path
    metrics: Path
    page: Path
    figures: Path


@dataclass(frozen=True, slots=True)
class PageSettings:
    """What the page is to hold.

    Attributes:
        title: its heading.
        gallery_images: most photos a gallery shows.
        photos: most photos that can be looked up.
        vocabulary: words of every attribute group.
        threshold: the cosine above which a word is chosen.
        seed: decides which photos are shown.
        workers: threads that decode them; never changes a result.
    """

    title: str
    gallery_images: int
    photos: int
    vocabulary: Mapping[str, Sequence[str]]
    threshold: float
    seed: int
    workers: int


@dataclass(frozen=True, slots=True)
class PageChart:
    """A chart as markup for the page, and in words."""

    svg: Markup
    description: str


def build_report(paths: ReportPaths, shown_limits: Sequence[Caveat], settings: PageSettings) -> int:
    """Write ``paths.page`` and the files of ``paths.figures``; return the photos in the list.

    ``figures`` holds ``dataset.jpg`` (a contact sheet) and an SVG for every chart that has a point
    to draw: ``loss.svg``, ``token_accuracy.svg``, ``bleu.svg``, ``troika_loss.svg``,
    ``troika.svg``, ``coverage.svg``, and of every group ``reliability_{group}.svg`` and
    ``risk_coverage_{group}.svg``. Both
    outputs are the same bytes for the same inputs.

    Raises:
        ReportInputError: a metrics file is missing or malformed.
        FileNotFoundError, SchemaError: a table is missing or not as declared.
        PipelineError: ``dvc.yaml`` cannot be drawn.
        LookupError: an image that is to be shown is not in the catalog.
        ValueError: the images do not fit on the page.
    """
    pipeline = read_pipeline(paths.dvc_yaml)
    results = read_results(paths.metrics)
    galleries = build_galleries(
        Tables(paths.splits, paths.prompts, paths.captions, paths.scores),
        settings.gallery_images,
        _CONTACT_IMAGES,
        settings.seed,
    )
    browsing = _photo_parts(paths, settings)
    uses = galleries.uses()
    if galleries.steps:
        # The first of these is shown once more, on top of the page.
        uses[galleries.steps[0].image_id] += 1
    images = read_thumbnails(paths.catalog, sorted({*uses, *galleries.contact_sheet}))
    thumbnails = as_data_uris({key: images[key] for key in uses}, uses)
    certainty = _certainty_charts(results)
    all_charts = [*_charts(results), *certainty, browsing.coverage_chart]
    charts = {chart.name: (chart, render(chart)) for chart in all_charts if chart.drawable}

    page = (
        page_environment()
        .get_template("page.html.jinja")
        .render(
            title=settings.title,
            warnings=results.warnings,
            threshold=settings.threshold,
            set_aside=read_set_aside(paths.rejected),
            style=page_style(),
            sentence=summary.sentence(results),
            key_figures=summary.key_figures(results),
            pipeline=pipeline,
            drawing=layout.draw([stage.name for stage in pipeline.stages], pipeline.edges),
            box_width=layout.BOX_WIDTH,
            box_height=layout.BOX_HEIGHT,
            galleries=galleries,
            thumbnails=thumbnails,
            charts={
                name: PageChart(Markup(inline(chart, svg)), chart.description)
                for name, (chart, svg) in charts.items()
            },
            certainty_charts=[chart.name for chart in certainty],
            kept_models=kept_models(results, summarize(paths.metrics)),
            confusions={group: tabulate(pairs) for group, pairs in results.confusions.items()},
            limits=shown_limits,
            params_text=paths.params.read_text(encoding="utf-8"),
            versions=library_versions(),
            **{name: getattr(browsing, name) for name in _PHOTO_PARTS},
            objects_alone="majority_closed" in results.troika,
            **_tables(results),
            few_products=tables.few_products(_fewest_products(results)),
            **_finetune_facts(results),
        )
    )
    _write_figures(
        {name: svg for name, (_, svg) in charts.items()}, galleries, images, paths.figures
    )
    with atomic_file(paths.page) as temporary:
        temporary.write_text(page, encoding="utf-8")
    size = paths.page.stat().st_size / 2**20
    log.info("%s holds %d photos to look up and has %.1f MiB.", paths.page, browsing.photos, size)
    return browsing.photos


_PHOTO_PARTS = (
    *("photo_data", "photo_thumbnails", "script", "content_policy"),
    *("shown_sentence", "coverage_table"),
)


def _photo_parts(paths: ReportPaths, settings: PageSettings) -> PhotoParts:
    return photo_parts(
        PhotoTables(
            splits=paths.splits,
            original=paths.original,
            prompts=paths.prompts,
            captions=paths.captions,
            recommended=paths.recommended,
            scores=paths.scores,
            truth=paths.truth,
        ),
        paths.catalog,
        settings.vocabulary,
        most=settings.photos,
        seed=settings.seed,
        workers=settings.workers,
    )


def _write_figures(
    charts: Mapping[str, str],
    galleries: Galleries,
    images: Mapping[str, Image.Image],
    directory: Path,
) -> None:
    with atomic_directory(directory) as figures:
        for name, svg in charts.items():
            write_chart(svg, figures / f"{name}.svg")
        shown = [images[key] for key in galleries.contact_sheet]
        write_contact_sheet(shown, figures / CONTACT_SHEET)


def _charts(results: StageResults) -> list[Chart]:
    losses, troika = results.losses, results.troika_curve
    return [
        _chart("loss", "Loss of fine-tuning", "nats a token", losses, _series("loss")),
        _chart("token_accuracy", "Token accuracy", "share", losses, _series("token_accuracy")),
        _chart(
            "bleu",
            "BLEU of validation captions",
            "mean of sentences",
            _measured(losses, "val_bleu"),
            {"val_bleu": "greedy captions"},
        ),
        _chart("troika_loss", "Loss of Troika", "nats", troika, {"train_loss": "training"}),
        _chart(
            "troika",
            "Troika on validation images",
            "share",
            troika,
            {"val_object_accuracy": "objects right"}
            if "majority_closed" in results.troika
            else {"val_auc": "AUC", "val_hm": "harmonic mean"},
        ),
    ]


def _certainty_charts(results: StageResults) -> list[Chart]:
    """Of every group the reliability diagram, then the risk-coverage curve."""
    charts = []
    for group, points in results.reliability.items():
        coverage = number(results.enhance, group, "held_out", "coverage")
        precision = number(results.enhance, group, "held_out", "precision")
        written = None if coverage is None or precision is None else (coverage, 1 - precision)
        charts += [
            reliability_chart(group, points),
            risk_coverage_chart(group, results.risk_coverage[group], written),
        ]
    return charts


def _measured(curve: Curve, column: str) -> Curve:
    """The epochs of a curve at which ``column`` was measured."""
    kept = [row for row, value in enumerate(curve[column]) if value is not None]
    return {name: [values[row] for row in kept] for name, values in curve.items()}


def _series(name: str) -> dict[str, str]:
    return {f"train_{name}": "training", f"val_{name}": "validation"}


def _chart(name: str, title: str, y_label: str, curve: Curve, columns: Mapping[str, str]) -> Chart:
    epochs = [epoch for epoch in curve["epoch"] if epoch is not None]
    series = [Series(label, curve[column]) for column, label in columns.items()]
    return Chart(name, title, y_label, epochs, series)


def _tables(results: StageResults) -> dict[str, tables.Table]:
    flat = {key: v for key, v in results.download.items() if not isinstance(v, Mapping)}
    found = {
        "download_table": tables.counts_table("What came in", "", flat),
        "rejected_table": tables.counts_table(
            "Images that could not be read", "Reason", results.download, "rejected"
        ),
        "dropped_table": tables.counts_table(
            "Images left out for their labels", "Reason", results.download, "dropped"
        ),
        "passed_over_table": tables.counts_table(
            "Files that are no images", "Kind", results.download, "passed_over"
        ),
        "split_table": tables.counts_table("How it was split", "", results.split),
        "troika_table": tables.troika_table(results.troika),
        "branches_table": tables.branches_table(results.troika),
        "enhancement_table": tables.enhancement_table(results.enhance),
        "stability_table": tables.stability_table(results.stability),
        "leads_table": tables.leads_table(
            results.enhance, results.troika, results.scores, results.recommend
        ),
        "certainty_table": tables.certainty_table(results.enhance, results.word_scorer),
        "loss_table": tables.loss_table(results.finetune),
        "text_metrics_table": tables.text_metrics_table(results.scores),
        "agreement_table": tables.agreement_table(results.scores),
        "attributes_table": tables.attributes_table(results.scores),
    }
    return {name: tables.known_part(table) for name, table in found.items()}


def _fewest_products(results: StageResults) -> float | None:
    """Of the products that intervals are over, the fewest; None where nothing was measured."""
    found = [
        number(results.scores, "finetuned", "products"),
        number(results.recommend, "validation", "products"),
        *(number(results.troika, world, "products") for world in ("closed", "open")),
        *(number(results.enhance, group, "products_with_truth") for group in results.enhance),
    ]
    return min((one for one in found if one), default=None)


_SHOWN_ABOVE: Sequence[str] = ("parameters.", "train_loss.", "val_loss.", "origin.")


def _finetune_facts(results: StageResults) -> dict[str, object]:
    """Parameter counts of both trained models, and whatever else fine-tuning recorded."""
    models = []
    for name, metrics in (("Troika", results.troika_train), ("BLIP-2 with LoRA", results.finetune)):
        total = number(metrics, "parameters", "total")
        trainable = number(metrics, "parameters", "trainable")
        share = trainable / total if total and trainable is not None else None
        models.append({"name": name, "total": total, "trainable": trainable, "share": share})
    facts = {
        key: value
        for key, value in numbers(results.finetune).items()
        if not key.startswith(tuple(_SHOWN_ABOVE))
    }
    return {"models": models, "finetune_facts": facts}
