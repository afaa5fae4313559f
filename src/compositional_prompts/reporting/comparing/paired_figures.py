"""The figures of two revisions on the same photos, and whether they differ by more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from compositional_prompts.catalog.splitting.split_tables import SCORED_SPLIT
from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.tables import is_absent, parquet_schema, read_columns
from compositional_prompts.prompt.template import slot_reader
from compositional_prompts.reporting.browsing.said_words import RIGHT, UNKNOWN, judge, same_word
from compositional_prompts.reporting.content.formats import count, words
from compositional_prompts.reporting.content.galleries import attribute_groups
from compositional_prompts.results.bootstrap import (
    TRUSTED_PRODUCTS,
    Bootstrap,
    Column,
    Interval,
    interval,
    product_codes,
)
from compositional_prompts.results.czsl_figures import (
    CZSL_FIGURES,
    JudgedImages,
    czsl_bootstrap,
    czsl_figures,
)

_CAPTION_METRICS: Final[Mapping[str, str]] = {
    "exact_match": "word for word",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "meteor_stem": "METEOR",
    "bert_score": "BERTScore",
    "clip_score": "CLIPScore",
    "ref_clip_score": "RefCLIPScore",
}
"""Columns of ``scores.parquet`` that are compared, and what they are called."""

_PAIR_METRICS: Final[Mapping[str, str]] = {
    "auc": "AUC",
    "best_hm": "harmonic mean",
    "attribute_accuracy": "attribute",
    "object_accuracy": "object",
}

_CAPTIONER: Final = "finetuned"


@dataclass(frozen=True, slots=True)
class FigureTables:
    """Where a revision's tables lie, relative to its folder."""

    splits: Path
    prompts: Path
    original: Path
    scores: Path
    truth: Path


@dataclass(frozen=True, slots=True)
class PairedFigure:
    """A figure of both revisions.

    Attributes:
        name: what it is of.
        first, second: its value in each.
        difference: of the second less the first, paired, with its 95 % interval.
    """

    name: str
    first: float
    second: float
    difference: Interval

    @property
    def chance(self) -> bool | None:
        """Whether the interval holds 0; None where there is no interval."""
        low, high = self.difference.low, self.difference.high
        return None if low is None or high is None else low <= 0 <= high


@dataclass(frozen=True, slots=True)
class PairedFigures:
    """What is compared.

    Attributes:
        images: of the test split of both revisions,
        products: and the products that they are of.
        rows: the figures, in the order in which they are shown.
        notes: what is not compared, and what makes the comparison weak, a sentence each.
    """

    images: int
    products: int
    rows: Sequence[PairedFigure]
    notes: Sequence[str]


def paired_figures(
    first: Path, second: Path, tables: FigureTables, names: tuple[str, str]
) -> PairedFigures:
    """Compare words, captions and their parts on the test images of both revisions.

    Both are judged by the labels and the truth of the second. A table that a revision does not have
    is said, and so are images of one alone.

    Args:
        first, second: folders of the revisions.
        tables: where tables lie in both; ``prompts`` must be in both, ``splits`` and ``truth`` in
            the second.
        names: of the revisions, for the notes.

    Raises:
        MissingOutputError, SchemaError: a table is missing, or the truth not as declared.
    """
    require_outputs(second / tables.splits, first / tables.prompts, second / tables.prompts)
    notes: list[str] = []
    tested = _tested(first, second, tables, names, notes)
    groups = attribute_groups(parquet_schema(second / tables.prompts).names)
    truth = read_truth(second / tables.truth, tested["image_id"].to_arrow(), groups)
    true: dict[str, Sequence[Sequence[str]]] = {
        name: [[word] if word else [] for word in tested[name]] for name in ("attribute", "object")
    }
    images = _Images(
        tested["image_id"], product_codes(tested["product_id"].to_arrow()), {**true, **truth}
    )
    rows = [
        *_pair_figures(first, second, tables, names, notes),
        *_word_figures(first, second, tables, names, images, groups, notes),
        *_caption_figures(first, second, tables, names, images, groups, notes),
    ]
    products = len(np.unique(images.products))
    if images.products.size and products < TRUSTED_PRODUCTS:
        notes.append(
            f"These are only {products} products: with fewer than {TRUSTED_PRODUCTS} intervals are "
            "too narrow and are not to be trusted."
        )
    return PairedFigures(len(images.ids), products, rows, notes)


@dataclass(frozen=True, slots=True)
class _Images:
    """The test images of both revisions: their ids, numbers of their products int64 ``[n]``, and by
    place what is true of them."""

    ids: pl.Series
    products: NDArray[np.int64]
    true: Mapping[str, Sequence[Sequence[str]]]


def _tested(
    first: Path, second: Path, tables: FigureTables, names: tuple[str, str], notes: list[str]
) -> pl.DataFrame:
    """``image_id``, ``product_id``, ``attribute`` and ``object`` of the test images of both."""
    columns = ["image_id", "product_id", "attribute", "object", "caption_split"]
    found = pl.DataFrame(read_columns(second / tables.splits, columns))
    found = found.filter(pl.col("caption_split") == SCORED_SPLIT)
    if not (first / tables.splits).exists():
        notes.append(f"{names[0]} has no {tables.splits}: test images are those of {names[1]}.")
        return found
    other = pl.DataFrame(read_columns(first / tables.splits, ["image_id", "caption_split"]))
    other = other.filter(pl.col("caption_split") == SCORED_SPLIT)
    both = found.join(other, on="image_id", how="semi", maintain_order="left")
    alone = len(other) - len(both), len(found) - len(both)
    if any(alone):
        notes.append(
            f"The splits differ: {count(alone[0])} images are test images of {names[0]} alone and "
            f"{count(alone[1])} of {names[1]} alone; they are not compared."
        )
    return both


def _of_images(table: pl.DataFrame, images: _Images) -> tuple[pl.DataFrame, NDArray[np.bool_]]:
    """The rows of the images, in their order, and which of them the table has."""
    wanted = pl.DataFrame({"image_id": images.ids})
    rows = table.with_columns(there=pl.lit(True))
    rows = wanted.join(rows, on="image_id", how="left", maintain_order="left")
    return rows, rows["there"].fill_null(False).to_numpy()


def _pair_figures(
    first: Path, second: Path, tables: FigureTables, names: tuple[str, str], notes: list[str]
) -> list[PairedFigure]:
    """Troika's metrics, or zero-shot CLIP's where nothing was trained, of the labelled images that
    both measured; in the closed world, unless the open one alone was asked.
    """
    judged = []
    for folder, name in zip((first, second), names, strict=True):
        path = folder / tables.original
        if not path.exists() or "judged" not in parquet_schema(path).names:
            notes.append(
                f"{tables.original} of {name} does not say how pairs were judged: they are not "
                "compared."
            )
            return []
        judged.append(_judged(path))
    worlds = [set(one["world"].unique()) for one in judged]
    world = next((one for one in ("closed", "open") if all(one in has for has in worlds)), None)
    if world is None:
        notes.append("No world of pairs was measured in both revisions.")
        return []
    tables_of = [one.filter(pl.col("world") == world).drop("world") for one in judged]
    both = tables_of[1].join(
        tables_of[0], on="image_id", how="inner", suffix="_first", maintain_order="left"
    )
    if alone := len(tables_of[0]) + len(tables_of[1]) - 2 * len(both):
        notes.append(f"Pairs of {count(alone)} images were measured in one revision alone.")
    same = both.filter(pl.col("seen") == pl.col("seen_first"))
    if others := len(both) - len(same):
        notes.append(
            f"Pairs of {count(others)} images are seen in one revision alone: not compared."
        )
    if same.is_empty():
        return []
    products = pl.DataFrame(read_columns(second / tables.splits, ["image_id", "product_id"]))
    same = same.join(products, on="image_id", how="left", maintain_order="left")
    bootstrap = czsl_bootstrap(product_codes(same["product_id"].to_arrow()))
    every = bootstrap.products(np.ones(len(same), np.bool_))
    sides = []
    for suffix in ("_first", ""):
        images = JudgedImages(
            **{one.name: same[f"{one.name}{suffix}"].to_numpy() for one in fields(JudgedImages)}
        )
        sides.append(czsl_figures(images, bootstrap))
    rows = []
    shown = dict(_PAIR_METRICS)
    if any(is_absent(folder / tables.original, "attribute") for folder in (first, second)):
        del shown["attribute_accuracy"]
    for column, figure in enumerate(CZSL_FIGURES):
        before, after = (float(whole[column]) for whole, _ in sides)
        if figure in shown and not np.isnan(before) and not np.isnan(after):
            samples = sides[1][1][:, column] - sides[0][1][:, column]
            difference = interval(after - before, samples, every)
            rows.append(PairedFigure(f"pairs, {shown[figure]}", before, after, difference))
    return rows


def _judged(path: Path) -> pl.DataFrame:
    """``image_id``, ``world`` and the fields of :class:`JudgedImages`, by the scorer that names."""
    rows = pl.DataFrame(read_columns(path, ["image_id", "judged"]))
    rows = rows.filter(pl.col("judged").is_not_null()).explode("judged").unnest("judged")
    scorer = "troika" if "troika" in rows["scorer"].unique() else "zero_shot"
    return rows.filter(pl.col("scorer") == scorer).drop("scorer")


def _word_figures(
    first: Path,
    second: Path,
    tables: FigureTables,
    names: tuple[str, str],
    images: _Images,
    groups: Sequence[str],
    notes: list[str],
) -> list[PairedFigure]:
    before = attribute_groups(parquet_schema(first / tables.prompts).names)
    for name, own, other in ((names[0], before, groups), (names[1], groups, before)):
        if alone := [group for group in own if group not in other]:
            notes.append(f"Only {name} has the group {', '.join(alone)}.")
    shared = [group for group in groups if group in before]
    columns: dict[str, tuple[Column, Column]] = {}
    found = [
        _of_images(
            pl.DataFrame(read_columns(folder / tables.prompts, ["image_id", *shared])), images
        )
        for folder in (first, second)
    ]
    there = _said_if_missing(found, names, f"{tables.prompts}", notes)
    for group in shared:
        true = images.true[group]
        known = np.array([bool(one) for one in true], np.bool_) & there
        right = [
            [
                word is not None and any(same_word(word, one) for one in words_)
                for word, words_ in zip(rows[group], true, strict=True)
            ]
            for rows, _ in found
        ]
        columns[f"words, {words(group)}"] = (right[0], known), (right[1], known)
    return _paired(columns, images.products)


def _caption_figures(
    first: Path,
    second: Path,
    tables: FigureTables,
    names: tuple[str, str],
    images: _Images,
    groups: Sequence[str],
    notes: list[str],
) -> list[PairedFigure]:
    folders = {names[0]: first / tables.scores, names[1]: second / tables.scores}
    if lacking := [name for name, path in folders.items() if not path.exists()]:
        notes.append(f"{' and '.join(lacking)} has no {tables.scores}: captions are not compared.")
        return []
    scores = [
        pl.DataFrame(read_columns(path)).filter(pl.col("captioner") == _CAPTIONER)
        for path in folders.values()
    ]
    found = [_of_images(table, images) for table in scores]
    there = _said_if_missing(found, names, f"{tables.scores}", notes)
    columns: dict[str, tuple[Column, Column]] = {}
    for metric, name in _CAPTION_METRICS.items():
        has = [metric in rows.columns for rows, _ in found]
        if has == [True, True]:
            values = [rows[metric].cast(pl.Float64).to_numpy() for rows, _ in found]
            known = there & np.isfinite(values[0]) & np.isfinite(values[1])
            columns[f"captions, {name}"] = (values[0], known), (values[1], known)
        elif any(has):
            notes.append(f"Only {names[has.index(True)]} has {name} of captions.")
    attributes = {name for one in images.true["attribute"] for name in one}
    for folder in (first, second):
        named = pl.DataFrame(read_columns(folder / tables.prompts, ["attribute"]))["attribute"]
        attributes |= {name for name in named.unique() if name}
    # No prompt of either has an attribute where labels are objects alone.
    places = [*(["attribute"] if attributes else []), "object", *groups]
    read = slot_reader(groups, attributes or None)
    verdicts = [
        [
            judge(
                None if text is None else read(text),
                {place: images.true[place][at] for place in places},
                places,
            )
            for at, text in enumerate(rows["caption"])
        ]
        for rows, _ in found
    ]
    for position, place in enumerate(places):
        letters = [np.array([one[position] for one in both], "U1") for both in verdicts]
        known = there & (letters[0] != UNKNOWN)
        sides = [letter == RIGHT for letter in letters]
        columns[f"captions, true {words(place)}"] = (sides[0], known), (sides[1], known)
    return _paired(columns, images.products)


def _said_if_missing(
    found: Sequence[tuple[pl.DataFrame, NDArray[np.bool_]]],
    names: tuple[str, str],
    table: str,
    notes: list[str],
) -> NDArray[np.bool_]:
    """Which images both tables have; a note of those that one lacks."""
    there = found[0][1] & found[1][1]
    for name, (_, has) in zip(names, found, strict=True):
        if lacking := int(np.count_nonzero(~has)):
            notes.append(f"{table} of {name} lacks {count(lacking)} of these images.")
    return there


def _paired(
    columns: Mapping[str, tuple[Column, Column]], products: NDArray[np.int64]
) -> list[PairedFigure]:
    """The figures of which something is known."""
    bootstrap = Bootstrap(products)
    sides: dict[tuple[str, str], Column] = {}
    for name, ((before, known), (after, _)) in columns.items():
        sides[name, "first"] = _filled(before, known), known
        sides[name, "second"] = _filled(after, known), known
        sides[name, "difference"] = _filled(after, known) - _filled(before, known), known
    found = bootstrap.named(sides) if len(products) else {}
    rows = []
    for name in columns if found else ():
        first, second = found[name, "first"].value, found[name, "second"].value
        if first is not None and second is not None:
            rows.append(PairedFigure(name, first, second, found[name, "difference"]))
    return rows


def _filled(values: ArrayLike, known: ArrayLike | None) -> NDArray[np.float64]:
    """``values`` with zeros where they do not count."""
    numbers = np.asarray(values, np.float64)
    return numbers if known is None else np.where(np.asarray(known), numbers, 0.0)


def as_text(figures: PairedFigures, names: tuple[str, str]) -> str:
    """A screen of text: the figures in columns, then the notes."""
    lines = [
        f"On the same {count(figures.images)} test images of {count(figures.products)} products, "
        "95 % intervals of the difference:"
    ]
    rows = [("", *names, "difference", "interval", "")]
    for row in figures.rows:
        bounds = row.difference.bounds
        rows.append(
            (
                row.name,
                f"{row.first:.3f}",
                f"{row.second:.3f}",
                f"{row.second - row.first:+.3f}",
                "none" if bounds is None else f"{bounds[0]:+.3f} to {bounds[1]:+.3f}",
                verdict(row),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines += [
        "  ".join(
            cell.ljust(width) if column in (0, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if not figures.rows:
        lines = ["No figure is known of test images of both revisions."]
    return "\n".join([*lines, *figures.notes])


def verdict(row: PairedFigure) -> str:
    """Whether the second revision is better, in a word or two."""
    if row.chance is None:
        return "one product"
    if row.chance:
        same = row.difference.low == row.difference.high
        return "the same" if same else "may be chance"
    return "better" if row.second > row.first else "worse"
