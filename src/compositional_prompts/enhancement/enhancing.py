"""From original prompts and CLIP vectors to enhanced prompts and how true they are."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from compositional_prompts.catalog.aligned_table import AlignedTable
from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.catalog.truth import TruthTable
from compositional_prompts.clip.vector_tables import ROWS, iterate_image_vectors
from compositional_prompts.compute.progress import progress
from compositional_prompts.compute.rows.completed_rows import CompletedRows, complete_rows
from compositional_prompts.compute.rows.computation import key_array
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.pixel_baseline import PixelWords
from compositional_prompts.enhancement.reference_colors import reference_colors
from compositional_prompts.enhancement.word_accuracy import (
    Confusion,
    GroupMetrics,
    WordEvaluation,
)
from compositional_prompts.enhancement.word_choice import Choice, choose, score_words
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.outputs import (
    DamagedOutputError,
    atomic_directory,
    require_outputs,
)
from compositional_prompts.files.tables import iterate_table, write_tables
from compositional_prompts.pipeline.section import Base
from compositional_prompts.prompt.template import PromptTemplate
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS

PROMPT_COLUMNS = ["image_id", "attribute", "object", "original_prompt"]


@dataclass(frozen=True)
class EnhanceInputs:
    """What the stage reads.

    Attributes:
        prompts: ``original.parquet``.
        catalog: folder of the catalog's shards.
        truth: ``truth.parquet``.
        embeddings: folder with ``images/`` and ``words.parquet``.
    """

    prompts: Path
    catalog: Path
    truth: Path
    embeddings: Path

    def prompt_batches(self) -> Iterator[pa.RecordBatch]:
        return iterate_table(self.prompts, ORIGINAL_PROMPTS, ROWS, PROMPT_COLUMNS)

    def vector_batches(self) -> Iterator[pa.RecordBatch]:
        for ids, vectors in iterate_image_vectors(self.embeddings / "images", ROWS):
            column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), vectors.shape[1])
            yield pa.record_batch([ids, column], ["image_id", "embedding"])

    def photo_batches(self) -> Iterator[pa.RecordBatch]:
        return iterate_batches(self.catalog, ["image_id", "content"], batch_size=ROWS)


@dataclass(frozen=True)
class Enhancement:
    """What was written.

    Attributes:
        images: how many.
        computed: of how many photos the pixel baseline's colours were computed now.
        metrics: by group, as in ``metrics/enhance.json``.
    """

    images: int
    computed: int
    metrics: Mapping[str, GroupMetrics]


def enhance_prompts(
    inputs: EnhanceInputs, enhanced: Path, confusion: Path, params: Enhance, base: Base
) -> Enhancement:
    """Choose words for every image, write them into its prompt, and count how many are true.

    Everything is streamed, a block of images at a time, where the tables are in the catalog's
    order. Memory holds the truth that is known (:class:`TruthTable`), 16 bytes an image where the
    pixel baseline is wanted, and counts. Photos are looked at only for groups of colours whose
    truth is known of some image, and each of them once for ever.

    Args:
        inputs: what is read.
        enhanced: ``enhanced.parquet``, in the order of the prompts.
        confusion: folder of ``{group}.csv`` with columns truth and predicted, one row an image with
            truth. A group without truth has a header only, so that the set of files depends on the
            vocabulary alone.
        params: the section ``enhance``.
        base: workers, engine and row store.

    Raises:
        MissingOutputError: an input is not there.
        SchemaError: an input is not as declared.
        PromptError: a word of the vocabulary cannot be read back from a prompt.
        ImageJoinError: the inputs are not of the same images.
        ValueError: there are no prompts, or a table, a vector or a reference colour is not valid.
    """
    vocabulary = read_vocabulary(inputs.embeddings / "words.parquet")
    template = PromptTemplate(tuple(vocabulary.words), params.fallback)
    template.check_words(vocabulary.words)
    palettes = {
        group: palette
        for group, words in vocabulary.words.items()
        if (palette := reference_colors(words, params.reference_colors)) is not None
    }
    require_outputs(inputs.prompts)
    total = pq.read_metadata(inputs.prompts).num_rows
    if not total:
        raise DamagedOutputError(f"{inputs.prompts} holds no prompts.", inputs.prompts)
    blocks = _blocks(inputs)
    first = next(blocks)  # the tables must fit one another before anything is computed
    truth = TruthTable(inputs.truth, tuple(vocabulary.words))
    pixel = PixelWords({group: palettes[group] for group in palettes if group in truth.known})
    evaluations = {
        group: WordEvaluation(words, pixel=group in pixel.palettes)
        for group, words in vocabulary.words.items()
    }
    with ExitStack() as stack:
        rows: CompletedRows | None = None
        if pixel.palettes:
            rows = stack.enter_context(complete_rows(pixel, CatalogPhotos(inputs.catalog), base))
        confusions = _Confusions(stack, confusion, tuple(vocabulary.words))

        def enhanced_block(block: _Block) -> pa.Table:
            named = {} if rows is None else pixel.words(rows.of(block.contents))
            scores = score_words(block.vectors, vocabulary.vectors)
            choices = {
                group: choose(scores[group], words, params.threshold)
                for group, words in vocabulary.words.items()
            }
            chosen = {group: _chosen_words(choice) for group, choice in choices.items()}
            true = truth.of(block.prompts.column("image_id").combine_chunks())
            for group, evaluation in evaluations.items():
                confusions.write(
                    group, evaluation.add(chosen[group], true[group], named.get(group))
                )
            return _tabulate(block.prompts, template, choices, chosen, named)

        shown = progress(chain([first], blocks), "blocks of prompts", -(-total // ROWS))
        schema = enhanced_prompts_schema(tuple(vocabulary.words))
        images = write_tables(map(enhanced_block, shown), enhanced, schema)
    return Enhancement(
        images,
        0 if rows is None else rows.computed,
        {group: evaluation.metrics() for group, evaluation in evaluations.items()},
    )


@dataclass(frozen=True)
class _Block:
    """Some images: their prompts, vectors float32 ``[n, d]``, and contents ``V16 [n]``."""

    prompts: pa.Table
    vectors: NDArray[np.float32]
    contents: NDArray[np.void]


def _blocks(inputs: EnhanceInputs) -> Iterator[_Block]:
    """The images in the order of the prompts."""
    wanted = inputs.prompt_batches, inputs.prompts
    photos = AlignedTable(inputs.photo_batches, inputs.catalog, *wanted)
    vectors = AlignedTable(inputs.vector_batches, inputs.embeddings / "images", *wanted)
    for batch in inputs.prompt_batches():
        ids = batch.column("image_id")
        contents = photos.take(ids).column("content").to_pylist()
        found = vectors.take(ids).column("embedding").combine_chunks()
        yield _Block(
            pa.Table.from_batches([batch]),
            found.flatten().to_numpy().reshape(len(found), -1),
            key_array(contents),
        )
    photos.check()
    vectors.check()


class _Confusions:
    """A CSV file a group, in a folder that appears whole or not at all."""

    def __init__(self, stack: ExitStack, directory: Path, groups: Sequence[str]) -> None:
        folder = stack.enter_context(atomic_directory(directory))
        self._writers = {}
        for group in groups:
            file = (folder / f"{group}.csv").open("w", newline="", encoding="utf-8")
            self._writers[group] = csv.writer(stack.enter_context(file), lineterminator="\n")
            self._writers[group].writerow(["truth", "predicted"])

    def write(self, group: str, confusion: Confusion) -> None:
        self._writers[group].writerows(confusion)


def _chosen_words(choice: Choice) -> list[str | None]:
    return [
        choice.words[best] if chosen else None
        for best, chosen in zip(choice.best.tolist(), choice.chosen.tolist(), strict=True)
    ]


def _tabulate(
    original: pa.Table,
    template: PromptTemplate,
    choices: Mapping[str, Choice],
    chosen: Mapping[str, Sequence[str | None]],
    pixel: Mapping[str, Sequence[str]],
) -> pa.Table:
    rows = original.num_rows
    words = zip(*(chosen[group] for group in template.groups), strict=True)
    enhanced = [
        template.format(attribute, object_, dict(zip(template.groups, row, strict=True)))
        for attribute, object_, row in zip(
            original.column("attribute").to_pylist(),
            original.column("object").to_pylist(),
            words,
            strict=True,
        )
    ]
    columns = {name: original.column(name) for name in PROMPT_COLUMNS}
    columns["enhanced_prompt"] = pa.array(enhanced, pa.string())
    for group, choice in choices.items():
        width = len(choice.words)
        offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
        columns |= {
            group: pa.array(chosen[group], pa.string()),
            f"{group}_best": pa.array(choice.words, pa.string()).take(pa.array(choice.best)),
            f"{group}_score": pa.array(choice.score),
            f"{group}_margin": pa.array(choice.margin),
            f"{group}_scores": pa.ListArray.from_arrays(offsets, choice.scores.ravel()),
            f"{group}_pixel": pa.array(pixel.get(group, [None] * rows), pa.string()),
        }
    return pa.table(columns)
