"""Photos whose word of a group is not known yet, with what the model says of them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.aligned_table import AlignedTable
from compositional_prompts.catalog.image_join import rows_of_images
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import TruthTable
from compositional_prompts.clip.vector_tables import ROWS, iterate_image_vectors
from compositional_prompts.files.outputs import MismatchedOutputsError, require_outputs
from compositional_prompts.files.tables import iterate_table, open_parquet
from compositional_prompts.reporting.content.photo_choice import rank

MOST = 50_000
"""Candidates among which photos are chosen; of more, so many at random: 150 MB of vectors of 768
numbers."""


@dataclass(frozen=True)
class CandidatePaths:
    """``enhanced.parquet``, ``splits.parquet``, ``truth.parquet``, and the folder of vectors."""

    prompts: Path
    splits: Path
    truth: Path
    vectors: Path


@dataclass
class Candidates:
    """Photos of some splits that nobody has labelled in a group, in the order of ``rank``.

    Attributes:
        image_ids: at most as many as asked for.
        product_ids: of their products.
        scores: of every word, float32 ``[n, words]``.
        total: how many there are.
        known: how many more the splits have, whose word is known or was asked for.
    """

    image_ids: list[str] = field(default_factory=list)
    product_ids: list[str] = field(default_factory=list)
    scores: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    total: int = 0
    known: int = 0

    @property
    def products(self) -> NDArray[np.int64]:
        """A number for each product, int64 ``[n]``."""
        numbers = pa.array(self.product_ids, pa.string()).dictionary_encode().indices
        return np.asarray(numbers.to_numpy(), np.int64)

    def vectors(self, folder: Path) -> NDArray[np.float32]:
        """Their CLIP vectors, L2-normalised float32 ``[n, dimension]``.

        Raises:
            MissingOutputError, DamagedOutputError, SchemaError, ImageJoinError: the table is not
                there, or not of these images.
        """
        table = rows_of_images(self.image_ids, _vector_batches(folder), table=folder)
        column = table.column("embedding").combine_chunks()
        vectors: NDArray[np.float32] = column.flatten().to_numpy().reshape(len(column), -1)
        return vectors


def gather_candidates(
    paths: CandidatePaths,
    group: str,
    words: Sequence[str],
    splits: Collection[str],
    answered: Collection[str],
    *,
    most: int,
    key: str,
) -> Candidates:
    """Go through all images once, a block at a time, and keep ``most`` candidates.

    Which of more are kept is decided by chance (:func:`rank` of the image_id), and so is their
    order: it does not depend on the order of the tables. Memory holds these, twice, and the truth
    that is known (20 bytes a word).

    Args:
        paths: the tables.
        group: of attributes.
        words: its vocabulary.
        splits: the caption splits to take them from.
        answered: images that people were asked for.
        most: how many.
        key: decides what chance does.

    Raises:
        MissingOutputError, SchemaError, MismatchedOutputsError: a table is not there, not as
            declared, or not of the same images or words.
    """
    kept = _Kept(most)
    found = Candidates()
    truth = TruthTable(paths.truth, [group])
    wanted = (lambda: _score_batches(paths.prompts, group)), paths.prompts
    rows = AlignedTable(lambda: _split_batches(paths.splits), paths.splits, *wanted)
    for batch in wanted[0]():
        ids = batch.column("image_id")
        scores = _scores(batch.column(f"{group}_scores"), words, paths.prompts, group)
        table = rows.take(ids)
        images = zip(
            ids.to_pylist(),
            table.column("product_id").to_pylist(),
            table.column("caption_split").to_pylist(),
            truth.of(ids)[group],
            scores,
            strict=True,
        )
        for image_id, product_id, split, known, row in images:
            if split not in splits:
                continue
            if known or image_id in answered:
                found.known += 1
                continue
            found.total += 1
            kept.add(rank(image_id, key), image_id, (product_id, row))
    rows.check()
    in_order = kept.in_order()
    found.image_ids = [image_id for image_id, _ in in_order]
    found.product_ids = [product_id for _, (product_id, _) in in_order]
    if in_order:
        found.scores = np.stack([row for _, (_, row) in in_order])
    return found


class _Kept:
    """The items of lowest rank, however many are added."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[int, str, Any]] = []

    def add(self, place: int, name: str, item: Any) -> None:
        # Names are unique, so that what they name is never compared.
        entry = (-place, name, item)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def in_order(self) -> list[tuple[str, Any]]:
        ordered = sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))
        return [(name, item) for _, name, item in ordered]


def _score_batches(prompts: Path, group: str) -> Iterator[pa.RecordBatch]:
    require_outputs(prompts)
    column = f"{group}_scores"
    with open_parquet(prompts) as file:
        if column not in file.schema_arrow.names:
            raise MismatchedOutputsError(
                f"{prompts} has no scores of the group {group!r} of clip_embed.attributes.", prompts
            )
        yield from file.iter_batches(ROWS, columns=["image_id", column])


def _split_batches(splits: Path) -> Iterator[pa.RecordBatch]:
    return iterate_table(splits, SPLITS, ROWS, ["image_id", "product_id", "caption_split"])


def _vector_batches(folder: Path) -> Iterator[pa.RecordBatch]:
    for ids, vectors in iterate_image_vectors(folder, ROWS):
        column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), vectors.shape[1])
        yield pa.record_batch([ids, column], ["image_id", "embedding"])


def _scores(
    column: pa.ListArray, words: Sequence[str], prompts: Path, group: str
) -> NDArray[np.float32]:
    """Float32 ``[images, words]``, a copy: rows of it outlive the batch."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if len(flat) != len(column) * len(words):
        raise MismatchedOutputsError(
            f"{prompts} has scores of {len(flat) / max(len(column), 1):g} words in the group "
            f"{group!r}, and clip_embed.attributes {len(words)}.",
            prompts,
        )
    return np.array(flat, np.float32).reshape(len(column), len(words))
