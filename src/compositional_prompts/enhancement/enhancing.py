"""From original prompts and CLIP vectors to enhanced prompts and how true they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.aligned_table import AlignedTable
from compositional_prompts.catalog.splitting.split_tables import SCORED_SPLIT, SPLITS
from compositional_prompts.catalog.truth import TruthTable
from compositional_prompts.clip.vector_tables import ROWS, iterate_image_vectors
from compositional_prompts.compute.progress import progress
from compositional_prompts.enhancement.calibration.held_out_words import (
    HeldOutWords,
    write_curves,
)
from compositional_prompts.enhancement.colors.color_tables import ColorTable, pixel_words
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.word_accuracy import (
    Confusion,
    GroupMetrics,
    WordEvaluation,
)
from compositional_prompts.enhancement.word_choice import Choice
from compositional_prompts.enhancement.word_scorer import load_word_scorer
from compositional_prompts.files.outputs import (
    DamagedOutputError,
    atomic_directory,
)
from compositional_prompts.files.records.spreadsheet_cells import CsvTable
from compositional_prompts.files.tables import (
    count_table_rows,
    is_absent,
    iterate_table,
    write_tables,
)
from compositional_prompts.prompt.pair import NO_ATTRIBUTE
from compositional_prompts.prompt.template import PromptTemplate
from compositional_prompts.prompt.text_form import word_form
from compositional_prompts.results.bootstrap import Bootstrap, ProductCodes
from compositional_prompts.troika.original_prompts import PROMPTS_OF_OBJECTS

PROMPT_COLUMNS = ["image_id", "attribute", "object", "original_prompt"]


@dataclass(frozen=True)
class EnhanceInputs:
    """What the stage reads.

    Attributes:
        prompts: ``original.parquet``.
        splits: ``splits.parquet``.
        truth: ``truth.parquet``.
        vectors: folder of the images' CLIP vectors.
        colors: folder of their colours.
        scorer: folder of the word scorer.
    """

    prompts: Path
    splits: Path
    truth: Path
    vectors: Path
    colors: Path
    scorer: Path

    def prompt_batches(self) -> Iterator[pa.RecordBatch]:
        return iterate_table(self.prompts, PROMPTS_OF_OBJECTS, ROWS, PROMPT_COLUMNS)

    def split_batches(self) -> Iterator[pa.RecordBatch]:
        return iterate_table(self.splits, SPLITS, ROWS, ["image_id", "product_id", "caption_split"])

    def vector_batches(self) -> Iterator[pa.RecordBatch]:
        for ids, vectors in iterate_image_vectors(self.vectors, ROWS):
            column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), vectors.shape[1])
            yield pa.record_batch([ids, column], ["image_id", "embedding"])


@dataclass(frozen=True)
class Enhancement:
    """What was written.

    Attributes:
        images: how many.
        metrics: by group, as in ``metrics/enhance.json``: beside what :data:`GroupMetrics` has,
            ``abstained``, how many images' word is left out for its probability alone, and
            ``held_out``, :class:`HeldOut` of test images.
    """

    images: int
    metrics: Mapping[str, GroupMetrics]


@dataclass(frozen=True)
class EnhancePlots:
    """Folders with a ``{group}.csv`` for every group.

    A group without truth has a header only, so that the set of files depends on the vocabulary
    alone.

    Attributes:
        confusion: columns truth and predicted, one row an image with truth.
        reliability: as :class:`ReliabilityPoint`, of test images.
        risk_coverage: as :class:`RiskCoveragePoint`, of test images.
    """

    confusion: Path
    reliability: Path
    risk_coverage: Path


def enhance_prompts(
    inputs: EnhanceInputs, enhanced: Path, plots: EnhancePlots, params: Enhance
) -> Enhancement:
    """Choose words for every image, write them into its prompt, and count how many are true.

    Everything is streamed, a block of images at a time, where the tables are in the catalog's
    order. Memory holds the truth that is known (:class:`TruthTable`), of every image the code of
    its product and what :class:`WordEvaluation` says, and of test images with truth what
    :class:`HeldOutWords` keeps.

    Args:
        inputs: what is read.
        enhanced: ``enhanced.parquet``, in the order of the prompts.
        plots: where curves are written.
        params: the section ``enhance``.

    Raises:
        MissingOutputError: an input is not there.
        DamagedOutputError: the scorer is damaged.
        SchemaError: an input is not as declared.
        PromptError: a word of the vocabulary cannot be read back from a prompt.
        ImageJoinError: the inputs are not of the same images.
        MismatchedOutputsError: colours and scorer are not of the same words.
        ValueError: there are no prompts, a table or a vector is not valid, or a group is scored by
            colours that are not there.
    """
    scorer = load_word_scorer(inputs.scorer)
    PromptTemplate(tuple(scorer.words)).check_words(scorer.words)
    alone = is_absent(inputs.prompts, "attribute")
    template = PromptTemplate(tuple(scorer.words), params.fallback, objects_alone=alone)
    total = count_table_rows(inputs.prompts)
    if not total:
        raise DamagedOutputError(f"{inputs.prompts} holds no prompts.", inputs.prompts)
    colors = ColorTable(inputs.colors)
    colors.check_words(scorer.words, inputs.scorer)
    truth = TruthTable(inputs.truth, tuple(scorer.words))
    evaluations = {
        group: WordEvaluation(words, pixel=group in colors.groups)
        for group, words in scorer.words.items()
    }
    with ExitStack() as stack:
        confusions = _Confusions(stack, plots.confusion, tuple(scorer.words))
        held_out = {group: HeldOutWords() for group in scorer.words}
        abstained = dict.fromkeys(scorer.words, 0)
        products = ProductCodes()

        def enhanced_block(block: _Block) -> pa.Table:
            named = {
                group: pixel_words(found, scorer.words[group])
                for group, found in block.colors.items()
            }
            scores = scorer.scores(block.vectors, block.colors)
            choices = {
                group: one.choose(scores[group], params.threshold)
                for group, one in scorer.groups.items()
            }
            chosen = {group: _chosen_words(choice) for group, choice in choices.items()}
            true = truth.of(block.prompts.column("image_id").combine_chunks())
            products.add(block.products)
            for group, evaluation in evaluations.items():
                confusions.write(
                    group, evaluation.add(chosen[group], true[group], named.get(group))
                )
                _hold_out(held_out[group], choices[group], true[group], block)
                abstained[group] += int(choices[group].abstained.sum())
            return _tabulate(block.prompts, template, choices, chosen, named)

        shown = progress(_blocks(inputs, colors), "blocks of prompts", -(-total // ROWS))
        schema = enhanced_prompts_schema(tuple(scorer.words), with_attributes=not alone)
        images = write_tables(map(enhanced_block, shown), enhanced, schema)
    bootstrap = Bootstrap(products.codes())
    certainty = {group: words.judge() for group, words in held_out.items()}
    write_curves(certainty, plots.reliability, plots.risk_coverage)
    return Enhancement(
        images,
        {
            group: evaluation.metrics(bootstrap)
            | {"abstained": abstained[group], "held_out": certainty[group].figures}
            for group, evaluation in evaluations.items()
        },
    )


def _hold_out(
    words: HeldOutWords, choice: Choice, truth: Sequence[Sequence[str]], block: _Block
) -> None:
    """Keep the best words of the block's test images whose truth is known."""
    rows = [row for row in np.flatnonzero(block.test).tolist() if truth[row]]
    best = [word_form(choice.words[place]) for place in choice.best[rows].tolist()]
    right = [said in map(word_form, truth[row]) for said, row in zip(best, rows, strict=True)]
    words.add(
        None if choice.probability is None else choice.probability[rows],
        np.array(right, np.bool_),
        choice.chosen[rows],
        [block.products[row] for row in rows],
    )


@dataclass(frozen=True)
class _Block:
    """Some images: their prompts, vectors float32 ``[n, d]``, colours by group, products, and
    which are of the caption split test, bool ``[n]``.
    """

    prompts: pa.Table
    vectors: NDArray[np.float32]
    colors: Mapping[str, NDArray[np.float32]]
    products: Sequence[str]
    test: NDArray[np.bool_]


def _blocks(inputs: EnhanceInputs, table: ColorTable) -> Iterator[_Block]:
    """The images in the order of the prompts."""
    wanted = inputs.prompt_batches, inputs.prompts
    colors = AlignedTable(partial(table.batches, ROWS), table.path, *wanted)
    vectors = AlignedTable(inputs.vector_batches, inputs.vectors, *wanted)
    splits = AlignedTable(inputs.split_batches, inputs.splits, *wanted)
    for batch in inputs.prompt_batches():
        ids = batch.column("image_id")
        colored = table.colors(colors.take(ids))
        found = vectors.take(ids).column("embedding").combine_chunks()
        flat = found.flatten().to_numpy()
        split = splits.take(ids)
        yield _Block(
            pa.Table.from_batches([batch]),
            flat.reshape(len(found), -1),
            colored,
            split.column("product_id").to_pylist(),
            np.array(split.column("caption_split").to_pylist()) == SCORED_SPLIT,
        )
    colors.check()
    vectors.check()
    splits.check()


class _Confusions:
    """A CSV file a group, in a folder that appears whole or not at all."""

    def __init__(self, stack: ExitStack, directory: Path, groups: Sequence[str]) -> None:
        folder = stack.enter_context(atomic_directory(directory))
        self._tables = {}
        for group in groups:
            file = (folder / f"{group}.csv").open("w", newline="", encoding="utf-8")
            self._tables[group] = CsvTable(stack.enter_context(file), ["truth", "predicted"])

    def write(self, group: str, confusion: Confusion) -> None:
        for truth, predicted in confusion:
            self._tables[group].write({"truth": truth, "predicted": predicted})


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
        template.format(
            attribute or NO_ATTRIBUTE, object_, dict(zip(template.groups, row, strict=True))
        )
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
            f"{group}_probability": pa.nulls(rows, pa.float32())
            if choice.probability is None
            else pa.array(choice.probability),
            f"{group}_pixel": pa.array(pixel.get(group, [None] * rows), pa.string()),
        }
    return pa.table(columns)
