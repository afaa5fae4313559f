"""Naming every image of a catalog and measuring it on the labelled test images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from compositional_prompts.catalog.decoding import decoded_batches
from compositional_prompts.catalog.reading import count_rows
from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.progress import progress
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.files.tables import as_declared
from compositional_prompts.pipeline.section import Base
from compositional_prompts.troika.evaluation.measured_worlds import MeasuredWorlds, Measurement
from compositional_prompts.troika.model.model_folder import load_model, vocabulary_to_name
from compositional_prompts.troika.naming import PromptNaming
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS
from compositional_prompts.troika.pair_scoring import Scorer, TroikaScorer
from compositional_prompts.troika.parameters import TroikaPredict
from compositional_prompts.troika.zero_shot import ZeroShot

MIB = 1024**2
WORLDS = ("closed", "open")
"""In the order in which they are written."""

ROW_GROUP = 16_384
"""Rows of ``original.parquet`` gathered in memory before they are written."""


@dataclass(frozen=True)
class PredictionOutcome:
    """Images named, and the content of ``metrics/troika.json``."""

    images: int
    metrics: dict[str, Any]


def _named(
    batches: Iterable[tuple[list[str], list[Tensor]]],
    naming: PromptNaming,
    measured: MeasuredWorlds,
    trials: Sequence[tuple[Scorer, Measurement]],
) -> Iterator[pa.Table]:
    """Rows of every batch, named by the first scorer; measured images are judged in passing.

    Args:
        batches: image_ids and preprocessed images.
        naming: from scores to rows.
        measured: which images are measured.
        trials: scorers with what they reach.
    """
    (scorer, measurement), *baselines = trials
    for image_ids, pixel_values in batches:
        pixels = torch.stack(pixel_values).to(measured.listed.device)
        images = scorer(pixels)
        places, judged, others = measured.part(image_ids)
        scores = pixels.new_empty(len(images), len(measured.listed))
        if len(judged):
            scores[judged] = measurement.judge(places, images.of_images(judged))
            for baseline, its_measurement in baselines:
                its_measurement.judge(places, baseline(pixels[judged]))
        if len(others):
            scores[others] = images.of_images(others).scores(measured.listed)
        yield naming.rows(image_ids, scores)
    measured.images.check()


def _write_stream(tables: Iterator[pa.Table], path: Path) -> int:
    """Write tables as they come, a row group of :data:`ROW_GROUP` rows at a time; returns rows."""
    total, pending, rows = 0, [], 0
    with (
        atomic_file(path) as temporary,
        pq.ParquetWriter(
            temporary, ORIGINAL_PROMPTS, compression="zstd", use_content_defined_chunking=True
        ) as writer,
    ):
        for table in tables:
            pending.append(as_declared(table, ORIGINAL_PROMPTS, path))
            rows += table.num_rows
            if rows >= ROW_GROUP:
                writer.write_table(pa.concat_tables(pending))
                total, pending, rows = total + rows, [], 0
        if pending:
            writer.write_table(pa.concat_tables(pending))
    return total + rows


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
    """Name every image of the catalog and measure the labelled ones, in one pass.

    Candidates of the naming are the pairs of ``pairs.parquet``, of a kept model as
    :func:`~.model_folder.vocabulary_to_name` says. Measured are the test images, in
    the worlds asked for; in the open one the validation images too, which choose the threshold.
    An image is scored once, for all pairs that it is named or measured among. Memory does not grow
    with the number of images, except by what :class:`Measurement` says; it grows with the pairs by
    their text features, ``8 d`` bytes a pair with those of the baseline.

    Args:
        catalog: directory of image shards.
        splits: ``splits.parquet``.
        pairs: ``pairs.parquet``; every pair listed is a candidate of the naming.
        clip_directory: the CLIP that the model was trained upon.
        model_directory: what training wrote; untrained, pairs are named by zero-shot CLIP.
        prompts: where ``original.parquet`` goes.
        params: ``troika_predict``.
        base: device and workers.

    Raises:
        CheckpointError: the model was trained with another vocabulary or CLIP.
        FileNotFoundError: a file is not there.
        ValueError: an image to be measured is not in the catalog, its pair is none of
            ``pairs.parquet``, or words have no vector.
    """
    device = resolve_device(base.device)
    vocabulary = vocabulary_to_name(model_directory, pairs)
    clip = load_clip(clip_directory, device)
    model = load_model(model_directory, vocabulary, clip)
    measured = MeasuredWorlds(splits, catalog, vocabulary, params, clip, device)
    block_bytes = params.block_mib * MIB
    zero_shot = ZeroShot(clip, vocabulary, measured.candidates, block_bytes)
    trials: list[tuple[Scorer, Measurement]] = [(zero_shot, Measurement(measured))]
    if model is not None:
        scorer = TroikaScorer(model, measured.candidates, block_bytes)
        trials.insert(0, (scorer, Measurement(measured)))
    batches = decoded_batches(catalog, clip.preprocess, params.batch_size, base.workers)
    naming = PromptNaming(vocabulary, params.top_k)
    total = -(-count_rows(catalog) // params.batch_size)
    rows = _named(progress(batches, "batches of photos", total), naming, measured, trials)
    images = _write_stream(rows, prompts)
    found = {"": trials[0][1].metrics(), "zero_shot_": trials[-1][1].metrics()}
    metrics: dict[str, Any] = {"trained": model is not None}
    for world in WORLDS:
        for prefix, worlds in found.items():
            if world in worlds:
                metrics[prefix + world] = worlds[world]
    if "open" in params.worlds:
        feasibility = params.feasibility
        metrics["feasibility"] = {
            "vectors": feasibility.vectors,
            "masking": feasibility.masking,
            "protocol": params.protocol,
            "thresholds": feasibility.thresholds,
        }
    return PredictionOutcome(images, metrics)
