"""Naming every image of a catalog and measuring it on the labelled test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from compositional_prompts.batching import decoded_batches
from compositional_prompts.catalog.schema import ORIGINAL_PROMPTS
from compositional_prompts.catalog.tables import check_no_nulls, check_schema
from compositional_prompts.clip.loading import Clip, load_clip
from compositional_prompts.devices import resolve_device
from compositional_prompts.outputs import atomic_file
from compositional_prompts.params import Base, TroikaPredict
from compositional_prompts.stage import progress
from compositional_prompts.troika.checkpoint import load_model
from compositional_prompts.troika.evaluation import Judgements, World, czsl_metrics, judge
from compositional_prompts.troika.model import Troika
from compositional_prompts.troika.vocabulary import Vocabulary, labelled_images
from compositional_prompts.troika.zero_shot import ZeroShot

ROW_GROUP = 16_384
"""Rows of ``original.parquet`` gathered in memory before they are written."""

Scorer = Callable[[Tensor], Tensor]
"""Preprocessed images ``[batch, 3, size, size]`` to scores ``[batch, pairs]``."""


class TroikaScorer:
    """Scores pairs by a trained model; the text features are computed once."""

    def __init__(self, model: Troika, vocabulary: Vocabulary) -> None:
        self.model = model.eval()
        device = model.clip.logit_scale.device
        self.pairs = torch.from_numpy(vocabulary.pair_indices).to(device)
        with torch.inference_mode():
            self.texts = model.encode_text(self.pairs)

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Scores of preprocessed images ``[batch, 3, size, size]``, ``[batch, pairs]``."""
        logits = self.model.branch_logits(self.model.encode_image(pixel_values), self.texts)
        return self.model.pair_scores(logits, self.pairs)


class PromptNaming:
    """Turns scores into rows of ``original.parquet``."""

    def __init__(self, vocabulary: Vocabulary, top_k: int) -> None:
        self.top_k = min(top_k, len(vocabulary.pairs))
        self.attributes = pa.array([attribute for attribute, _ in vocabulary.pairs])
        self.objects = pa.array([name for _, name in vocabulary.pairs])
        self.prompts = pa.array(
            [f"A photo of {attribute}_{name}" for attribute, name in vocabulary.pairs]
        )

    def rows(self, image_ids: list[str], scores: Tensor) -> pa.Table:
        """The best pairs of each image, most probable first.

        Args:
            image_ids: of the batch.
            scores: of all pairs of the vocabulary, ``[batch, pairs]``.
        """
        probabilities, columns = scores.float().softmax(dim=-1).topk(self.top_k, dim=-1)
        best = pa.array(columns[:, 0].cpu().numpy())
        every = pa.array(columns.reshape(-1).cpu().numpy())
        values = probabilities.cpu().numpy()
        offsets = pa.array(np.arange(len(image_ids) + 1, dtype=np.int32) * self.top_k)

        def lists(items: pa.Array) -> pa.Array:
            return pa.ListArray.from_arrays(offsets, items)

        return pa.table(
            [
                pa.array(image_ids, pa.string()),
                self.attributes.take(best),
                self.objects.take(best),
                self.prompts.take(best),
                pa.array(values[:, 0]),
                lists(self.attributes.take(every)),
                lists(self.objects.take(every)),
                lists(pa.array(values.reshape(-1))),
            ],
            schema=ORIGINAL_PROMPTS,
        )


class ClosedWorldTest:
    """The labelled test images, judged batch by batch as they come along."""

    def __init__(self, splits: Path, vocabulary: Vocabulary, device: torch.device) -> None:
        labelled = labelled_images(splits, vocabulary, "test")
        columns = vocabulary.world("test")
        place = {int(column): position for position, column in enumerate(columns)}
        self.truth = {
            image_id: place[int(pair)]
            for image_id, pair in zip(labelled.image_ids, labelled.pairs, strict=True)
        }
        self.columns = torch.from_numpy(columns).to(device)
        self.world = World.of(
            torch.from_numpy(vocabulary.pair_indices[columns]).to(device),
            torch.tensor([vocabulary.seen[column] for column in columns], device=device),
        )
        self.missing = set(self.truth)
        self.judgements: dict[str, list[Judgements]] = {"closed": [], "zero_shot_closed": []}

    def rows(self, image_ids: list[str]) -> list[int]:
        """Rows of the batch that are test images."""
        return [row for row, image_id in enumerate(image_ids) if image_id in self.truth]

    def judge(self, setting: str, image_ids: list[str], scores: Tensor) -> None:
        """Judge test images under ``closed`` or ``zero_shot_closed``.

        Args:
            setting: what the scores are from.
            image_ids: test images.
            scores: of all pairs of the vocabulary, ``[images, pairs]``.
        """
        truth = torch.tensor([self.truth[name] for name in image_ids], device=scores.device)
        self.judgements[setting].append(judge(scores[:, self.columns], truth, self.world))
        self.missing.difference_update(image_ids)

    def metrics(self) -> dict[str, dict[str, float | int | None]]:
        """Metrics of the judged images and the size of their world, by setting."""
        return {
            setting: {
                **czsl_metrics(Judgements.concatenate(parts)),
                "pairs": len(self.columns),
                "seen_pairs": int(self.world.seen.sum()),
            }
            for setting, parts in self.judgements.items()
        }


@dataclass(frozen=True)
class PredictionOutcome:
    """Images named, and the content of ``metrics/troika.json``."""

    images: int
    metrics: dict[str, Any]


def _named(
    catalog: Path,
    clip: Clip,
    model: Troika | None,
    vocabulary: Vocabulary,
    test: ClosedWorldTest,
    params: TroikaPredict,
    workers: int,
) -> Iterator[pa.Table]:
    """Rows of every batch of the catalog, whose test images are judged in passing."""
    device = test.columns.device
    zero_shot = ZeroShot(clip, vocabulary)
    scorer: Scorer = zero_shot if model is None else TroikaScorer(model, vocabulary)
    naming = PromptNaming(vocabulary, params.top_k)
    batches = decoded_batches(catalog, clip.preprocess, params.batch_size, workers)
    for image_ids, pixel_values in progress(batches, "predict"):
        images = pixel_values.to(device)
        scores = scorer(images)
        yield naming.rows(image_ids, scores)
        if rows := test.rows(image_ids):
            test_ids = [image_ids[row] for row in rows]
            baseline = scores[rows] if model is None else zero_shot(images[rows])
            test.judge("closed", test_ids, scores[rows])
            test.judge("zero_shot_closed", test_ids, baseline)
    if test.missing:
        raise ValueError(
            f"{catalog} does not hold {len(test.missing)} labelled test images, among them "
            f"{min(test.missing)!r}: run `dvc repro split`."
        )


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
            check_schema(table.schema, ORIGINAL_PROMPTS, path)
            check_no_nulls(table, ORIGINAL_PROMPTS, path)
            pending.append(table)
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
    """Name every image of the catalog and evaluate the labelled test images, in one pass.

    Memory does not grow with the number of images, except by a few bytes a test image.

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
        ValueError: a labelled test image is not in the catalog.
    """
    device = resolve_device(base.device)
    vocabulary = Vocabulary.read(pairs)
    test = ClosedWorldTest(splits, vocabulary, device)
    clip = load_clip(clip_directory, device)
    model = load_model(model_directory, vocabulary, clip)
    images = _write_stream(
        _named(catalog, clip, model, vocabulary, test, params, base.workers), prompts
    )
    return PredictionOutcome(images, {"trained": model is not None, **test.metrics()})
