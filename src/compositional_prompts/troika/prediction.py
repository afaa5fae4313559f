"""Naming every image of a catalog and measuring it on the labelled test images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.rows.completed_rows import CompletedRows, complete_rows
from compositional_prompts.compute.rows.computation import Item, kernel_batch
from compositional_prompts.files.tables import GROUP_ROWS, write_tables
from compositional_prompts.pipeline.section import Base
from compositional_prompts.prompt.pair import NO_ATTRIBUTE, original_prompt
from compositional_prompts.troika.evaluation.czsl_intervals import CzslIntervals
from compositional_prompts.troika.evaluation.feasibility import OpenWorld
from compositional_prompts.troika.evaluation.judged_rows import (
    BRANCHES,
    LabelledPhotos,
    PairJudgements,
)
from compositional_prompts.troika.evaluation.judged_worlds import JudgedWorlds
from compositional_prompts.troika.evaluation.measured_worlds import MeasuredImages, measure
from compositional_prompts.troika.model.model_folder import read_config, vocabulary_to_name
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary, labelled_images
from compositional_prompts.troika.naming import PairNames, named_dtype
from compositional_prompts.troika.objects_alone import beside_majority, without_attributes
from compositional_prompts.troika.original_prompts import (
    JUDGED,
    ORIGINAL_PROMPTS,
    PROMPTS_OF_OBJECTS,
)
from compositional_prompts.troika.pair_scoring import kernel_block
from compositional_prompts.troika.parameters import TroikaPredict

WORLDS = ("closed", "open")
"""In the order in which they are written."""


@dataclass(frozen=True)
class PredictionOutcome:
    """Images named, how many were computed now, and the content of ``metrics/troika.json``."""

    images: int
    computed: int
    metrics: dict[str, Any]


@dataclass(frozen=True)
class _OtherPhotos:
    """The source of the photos that are not measured: named by their content alone."""

    photos: CatalogPhotos
    rows: NDArray[np.int64]

    @property
    def keys(self) -> NDArray[np.void]:
        return self.photos.keys[self.rows]

    def items(self, positions: NDArray[np.int64]) -> Iterator[Item]:
        return self.photos.items(self.rows[positions])


class _PromptTable:
    """Rows of ``original.parquet`` of named pairs."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        attributes = [None if one == NO_ATTRIBUTE else one for one, _ in vocabulary.pairs]
        self._attributes = pa.array(attributes, pa.string())
        self.schema = PROMPTS_OF_OBJECTS if vocabulary.objects_alone else ORIGINAL_PROMPTS
        self._objects = pa.array([name for _, name in vocabulary.pairs])
        self._prompts = pa.array([original_prompt(*pair) for pair in vocabulary.pairs])

    def rows(self, image_ids: pa.Array, named: NDArray[Any], judged: pa.Array) -> pa.Table:
        """Of images, their rows, structured as :func:`named_dtype` says, and their judgements."""
        positions, probabilities = named["positions"], named["probabilities"]
        best = pa.array(np.ascontiguousarray(positions[:, 0]))
        every = pa.array(positions.reshape(-1))
        offsets = pa.array(np.arange(len(named) + 1, dtype=np.int32) * positions.shape[1])

        def lists(items: pa.Array) -> pa.Array:
            return pa.ListArray.from_arrays(offsets, items)

        return pa.table(
            [
                image_ids,
                self._attributes.take(best),
                self._objects.take(best),
                self._prompts.take(best),
                pa.array(np.ascontiguousarray(probabilities[:, 0])),
                lists(self._attributes.take(every)),
                lists(self._objects.take(every)),
                lists(pa.array(probabilities.reshape(-1))),
                judged,
            ],
            schema=self.schema,
        )


def _named(
    start: int,
    images: int,
    measured: MeasuredImages,
    judged: CompletedRows,
    named: CompletedRows,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """The best pairs of the catalog's images from ``start`` on, structured ``[images]``."""
    first, end = np.searchsorted(measured.rows, [start, start + images]).tolist()
    labelled = np.zeros(images, bool)
    labelled[measured.rows[first:end] - start] = True
    found = np.empty(images, dtype)
    for mask, source, place in ((labelled, judged, first), (~labelled, named, start - first)):
        if count := int(mask.sum()):
            rows = source.read(np.arange(place, place + count))
            for field in dtype.names or ():
                found[field][mask] = rows[field]
    return found


def predict(
    catalog: Path,
    splits: Path,
    pairs: Path,
    clip_directory: Path,
    model_directory: Path,
    prompts: Path,
    params: TroikaPredict,
    base: Base,
) -> PredictionOutcome:
    """Name every image of the catalog and measure the labelled ones; each is looked at once.

    Candidates of the naming are the pairs of ``pairs.parquet``, of a kept model as
    :func:`~.model_folder.vocabulary_to_name` says. Measured are the test images, in
    the worlds asked for; validation images are judged too, and choose the bias of the closed world
    and the threshold of the open one. Where labels are objects alone, every combination is a pair
    of the data set, so that there is no other open world; no attribute is measured; and beside
    the models stands the object that most training images have.
    A measured image is scored once, for all pairs that it is named or measured among. Memory is 50
    bytes an image and what :func:`measure` says; it grows with the pairs by their text features,
    ``8 d`` bytes a pair with those of the baseline.

    Args:
        catalog: directory of image shards.
        splits: ``splits.parquet``.
        pairs: ``pairs.parquet``; every pair listed is a candidate of the naming.
        clip_directory: the CLIP that the model was trained upon.
        model_directory: what training wrote; untrained, pairs are named by zero-shot CLIP.
        prompts: where ``original.parquet`` goes.
        params: ``troika_predict``.
        base: device, workers, engine, and where rows are kept.

    Raises:
        CheckpointError: the model was trained with another vocabulary or CLIP.
        FileNotFoundError: a file is not there.
        ValueError: an image to be measured is not in the catalog, its pair is none of
            ``pairs.parquet``, or words have no vector.
    """
    device = resolve_device(base.device)
    vocabulary = vocabulary_to_name(model_directory, pairs)
    measured = MeasuredImages.of(splits, catalog, vocabulary)
    alone = vocabulary.objects_alone
    closed, opened = alone or "closed" in params.worlds, "open" in params.worlds and not alone
    open_world = None
    if opened:
        clip = load_clip(clip_directory, device)
        open_world = OpenWorld.of(vocabulary, params.feasibility, clip)
        del clip  # what computes loads its own
    worlds = JudgedWorlds.of(vocabulary, closed, open_world)
    naming = PairNames(
        clip=clip_directory,
        model=model_directory,
        vocabulary=vocabulary,
        top_k=params.top_k,
        device=device.type,
        batch_size=kernel_batch(device.type, params.batch_size),
        block_mib=kernel_block(device.type, params.block_mib),
    )
    trained = bool(read_config(model_directory)["trained"])
    judging = PairJudgements(**vars(naming), worlds=worlds, trained=trained)
    photos = CatalogPhotos(catalog)
    labelled = LabelledPhotos(photos, measured.rows, measured.pairs, vocabulary)
    others = _OtherPhotos(photos, np.delete(np.arange(len(photos.keys)), measured.rows))
    with (
        complete_rows(judging, labelled, base) as judged,
        complete_rows(naming, others, base) as named,
    ):
        rows, done = np.empty(len(judged), judging.dtype), 0
        for batch in judged.batches():
            rows[done : done + len(batch)] = batch
            done += len(batch)
        intervals, reached = _measured(rows, judging, measured, params)
        _write_prompts(
            *(catalog, prompts, vocabulary, measured, judged, named, naming.kept), intervals
        )
    metrics: dict[str, Any] = {"trained": trained}
    for world in WORLDS:
        for prefix, in_worlds in reached.items():
            if world in in_worlds:
                metrics[prefix + world] = in_worlds[world]
        if trained and world in metrics:
            minus = intervals.minus(f"troika_{world}", f"zero_shot_{world}")
            metrics[world] |= {"minus": {"zero_shot": minus}}
    if alone:
        training = labelled_images(splits, vocabulary, "train")
        found, leads = beside_majority(training, measured, vocabulary, intervals.images)
        metrics = without_attributes(metrics) | {"majority_closed": found}
        for prefix, lead in leads.items():
            minus = metrics[f"{prefix}closed"].setdefault("minus", {})
            minus["majority"] = lead
    if opened:
        feasibility = params.feasibility
        metrics["feasibility"] = {
            "vectors": feasibility.vectors,
            "masking": feasibility.masking,
            "protocol": params.protocol,
            "thresholds": feasibility.thresholds,
        }
    return PredictionOutcome(len(photos.keys), judged.computed + named.computed, metrics)


def _measured(
    rows: NDArray[Any], judging: PairJudgements, measured: MeasuredImages, params: TroikaPredict
) -> tuple[CzslIntervals, dict[str, dict[str, dict[str, Any]]]]:
    """What every scorer reached in every world, by prefix and world, and how it was measured."""
    found = {"": judging.scorers[0], "zero_shot_": "zero_shot"}
    if judging.trained:
        found |= {f"{branch}_": branch for branch in BRANCHES}
    intervals = CzslIntervals(measured.products[measured.tested])
    reached = {
        prefix: measure(rows, scorer, measured, judging.worlds, params.protocol, intervals)
        for prefix, scorer in found.items()
    }
    return intervals, reached


def _judged_column(
    intervals: CzslIntervals, tested: NDArray[np.int64], start: int, images: int
) -> pa.Array:
    """How the tested images of a part of the catalog were judged: lists of :data:`JUDGED`.

    Args:
        intervals: what was measured of the tested images.
        tested: their rows in the catalog, ascending, int64 ``[tested]``.
        start, images: the part of the catalog.
    """
    first, end = np.searchsorted(tested, [start, start + images]).tolist()
    names = [
        (scorer, world)
        for scorer in ("troika", "zero_shot")
        for world in WORLDS
        if f"{scorer}_{world}" in intervals.images
    ]
    column: list[list[dict[str, Any]] | None] = [None] * images
    parts = {name: vars(intervals.images["_".join(name)]) for name in names}
    for place in range(first, end):
        column[int(tested[place]) - start] = [
            {"scorer": scorer, "world": world}
            | {field: values[place].item() for field, values in parts[scorer, world].items()}
            for scorer, world in names
        ]
    return pa.array(column, pa.list_(JUDGED))


def _write_prompts(
    catalog: Path,
    prompts: Path,
    vocabulary: Vocabulary,
    measured: MeasuredImages,
    judged: CompletedRows,
    named: CompletedRows,
    kept: int,
    intervals: CzslIntervals,
) -> None:
    """Write ``original.parquet`` in the catalog's order, a row group at a time."""
    table, dtype = _PromptTable(vocabulary), named_dtype(kept)
    tested = measured.rows[measured.tested]

    def tables() -> Iterator[pa.Table]:
        start = 0
        for batch in iterate_batches(catalog, ["image_id"], batch_size=GROUP_ROWS):
            rows = _named(start, batch.num_rows, measured, judged, named, dtype)
            of_tested = _judged_column(intervals, tested, start, batch.num_rows)
            yield table.rows(batch.column("image_id"), rows, of_tested)
            start += batch.num_rows

    write_tables(tables(), prompts, table.schema)
