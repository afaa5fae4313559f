"""Whether photos are said the same words after they were saved again, reduced or cropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compositional_prompts.catalog.image_join import IDS_AT_ONCE
from compositional_prompts.catalog.splitting.split_tables import SCORED_SPLIT, SPLITS
from compositional_prompts.catalog.truth import TruthTable
from compositional_prompts.clip.altered_photos import ALTERATIONS
from compositional_prompts.compute.rows.completed_rows import complete_rows
from compositional_prompts.compute.rows.computation import Computation
from compositional_prompts.enhancement.altered.altered_rows import ChosenPhotos, of_altered
from compositional_prompts.enhancement.colors.color_tables import GroupColors, colors_of_rows
from compositional_prompts.enhancement.colors.foreground_colors import ForegroundColors
from compositional_prompts.enhancement.word_scorer import (
    GroupScorer,
    WordScorer,
    load_word_scorer,
    pixel_scorer,
)
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.tables import iterate_table
from compositional_prompts.pipeline.section import Base
from compositional_prompts.prompt.text_form import word_form
from compositional_prompts.results.bootstrap import Bootstrap, beside, product_codes

UNALTERED = ""
"""The name of no alteration."""

NONE = -1
"""The place of no word."""

NO_PHOTOS = np.empty(0, np.int64)
"""What is said of no photos."""


@dataclass(frozen=True)
class StabilityPaths:
    """What the stage reads.

    Attributes:
        catalog: folder of shards.
        splits: ``splits.parquet``.
        truth: ``truth.parquet``.
        scorer: folder of the word scorer.
    """

    catalog: Path
    splits: Path
    truth: Path
    scorer: Path


@dataclass(frozen=True)
class Stability:
    """What was measured.

    Attributes:
        images: how many photos were altered, each in all ways.
        computed: vectors and colours that were computed now.
        metrics: as in ``metrics/stability.json``.
    """

    images: int
    computed: int
    metrics: Mapping[str, Any]


def measure_stability(
    paths: StabilityPaths, vectors: Computation, *, images: int, threshold: float, base: Base
) -> Stability:
    """Alter photos of the test split, and compare what words they are then said to have.

    Each photo is altered, embedded and looked at once for ever: all is rows.

    Args:
        paths: what is read.
        vectors: the CLIP vectors of encoded photos, rows of a field ``vector``.
        images: photos at most; of more, those whose image_ids have the lowest digests, so that a
            grown catalog has mostly the same.
        threshold: of cosines, as in ``enhance``.
        base: workers, engine and row store.

    Raises:
        MissingOutputError, SchemaError: an input is not there, or not as declared.
        ImageJoinError: the catalog lacks a test image.
        DamagedOutputError: the scorer is damaged.
        ValueError: the vectors and the scorer are not of one model.
    """
    scorer = load_word_scorer(paths.scorer)
    products = _test_images(paths.splits, images)
    source = ChosenPhotos(paths.catalog, list(products), paths.splits)
    methods = {group: _methods(scorer, group) for group in scorer.groups}
    said: dict[tuple[str, str, str], NDArray[np.int64]] = {}
    computed = 0
    for alteration in (UNALTERED, *ALTERATIONS) if products else ():
        embedded, count = _rows(vectors, source, alteration, base)
        computed += count
        colors: GroupColors = {}
        if scorer.palettes:
            looked_at, count = _rows(ForegroundColors(scorer.palettes), source, alteration, base)
            computed += count
            colors = colors_of_rows(looked_at, scorer.words, scorer.palettes)
        for group, scorers in methods.items():
            for method, one in scorers.items():
                choice = one.choose(one.scores(embedded["vector"], colors.get(group)), threshold)
                said[group, method, alteration] = np.where(choice.chosen, choice.best, NONE)
    bootstrap = Bootstrap(product_codes(list(products.values())))
    truth = TruthTable(paths.truth, tuple(scorer.groups)).of(pa.array(list(products), pa.string()))
    metrics = {
        group: {
            "method": scorer.groups[group].method,
            "images": len(products),
            "images_with_truth": sum(bool(words) for words in truth[group]),
            "methods": {
                method: _compare(
                    {
                        name: said.get((group, method, name), NO_PHOTOS)
                        for name in (UNALTERED, *ALTERATIONS)
                    },
                    _true_places(truth[group], one.words),
                    np.array([bool(words) for words in truth[group]], np.bool_),
                    bootstrap,
                )
                for method, one in scorers.items()
            },
        }
        for group, scorers in methods.items()
    }
    return Stability(len(products), computed, metrics)


def _methods(scorer: WordScorer, group: str) -> dict[str, GroupScorer]:
    """The group's own method, and those that need nothing learnt, by name."""
    own = scorer.groups[group]
    found = {"cosine": GroupScorer(own.words, "cosine", own.vectors)}
    if group in scorer.palettes:
        found["pixels"] = pixel_scorer(own.words, own.vectors)
    return found | {own.method: own}


def _rows(
    computation: Computation, source: ChosenPhotos, alteration: str, base: Base
) -> tuple[NDArray[Any], int]:
    """The rows of the photos, altered, and how many were computed now."""
    if alteration != UNALTERED:
        computation = of_altered(computation, alteration)
    with complete_rows(computation, source, base) as rows:
        return rows.of(source.contents), rows.computed


def _test_images(splits: Path, most: int) -> dict[str, str]:
    """By image_id, the product_id of test images."""
    columns = ["image_id", "product_id", "caption_split"]
    found: list[tuple[str, str]] = []
    for batch in iterate_table(splits, SPLITS, IDS_AT_ONCE, columns):
        test = batch.filter(pc.equal(batch.column("caption_split"), SCORED_SPLIT))
        found += zip(
            test.column("image_id").to_pylist(), test.column("product_id").to_pylist(), strict=True
        )
    return dict(sorted(found, key=lambda pair: content_digest(pair[0].encode()))[:most])


def _true_places(truth: Sequence[tuple[str, ...]], words: Sequence[str]) -> NDArray[np.bool_]:
    """Which words are true, bool ``[n, words + 1]``; nothing said, the last, never is."""
    places = {word_form(word): place for place, word in enumerate(words)}
    true = np.zeros((len(truth), len(words) + 1), np.bool_)
    for row, said in enumerate(truth):
        for word in said:
            if (place := places.get(word_form(word))) is not None:
                true[row, place] = True
    return true


def _compare(
    said: Mapping[str, NDArray[np.int64]],
    true: NDArray[np.bool_],
    known: NDArray[np.bool_],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Metrics of one method.

    Args:
        said: by alteration, the place of the word written of every photo, or :data:`NONE`.
        true: which words are true, bool ``[n, words + 1]``.
        known: of which photos something is true, bool ``[n]``.
        bootstrap: of the photos' products.
    """
    before = said[UNALTERED]
    right = {name: true[np.arange(len(true)), places] for name, places in said.items()}
    metrics: dict[str, Any] = beside(bootstrap.named({"accuracy": (right[UNALTERED], known)}))
    for name in ALTERATIONS:
        metrics[name] = beside(
            bootstrap.named(
                {
                    "same": (said[name] == before, None),
                    "accuracy": (right[name], known),
                    "accuracy_gain": (right[name].astype(np.float64) - right[UNALTERED], known),
                }
            )
        )
    return metrics
