"""From original prompts and CLIP vectors to enhanced prompts and how true they are."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.image_join import ImageJoin, image_rows
from compositional_prompts.catalog.reading import iterate_ids
from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.clip.vector_tables import iterate_image_vectors
from compositional_prompts.compute.progress import progress
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.pixel_baseline import Palette, name_catalog
from compositional_prompts.enhancement.reference_colors import reference_colors
from compositional_prompts.enhancement.word_accuracy import Evaluation, GroupMetrics, evaluate
from compositional_prompts.enhancement.word_choice import Choice, choose, score_images
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.outputs import DamagedOutputError, atomic_directory
from compositional_prompts.files.tables import read_table
from compositional_prompts.prompt.template import PromptTemplate
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS

PROMPT_COLUMNS = ["image_id", "attribute", "object", "original_prompt"]


@dataclass(frozen=True)
class Enhancement:
    """The table of enhanced prompts and, by group, their evaluation."""

    table: pa.Table
    evaluations: Mapping[str, Evaluation]

    def metrics(self) -> dict[str, GroupMetrics]:
        """Metrics by group, as in ``metrics/enhance.json``."""
        return {group: result.metrics for group, result in self.evaluations.items()}


def enhance_prompts(
    prompts: Path, catalog: Path, truth: Path, embeddings: Path, params: Enhance, workers: int
) -> Enhancement:
    """Choose words for every image and write them into its prompt.

    Memory holds the prompts and one number a word and image; vectors and photos are streamed.
    Photos are decoded only for groups of colours whose truth is known of some image.

    Args:
        prompts: ``original.parquet``.
        catalog: folder of the catalog's shards.
        truth: ``truth.parquet``.
        embeddings: folder with ``images.parquet`` and ``words.parquet``.
        params: the section ``enhance``.
        workers: processes that decode photos.

    Raises:
        FileNotFoundError: an input is not there.
        SchemaError: an input is not as declared.
        PromptError: a word of the vocabulary cannot be read back from a prompt.
        ImageJoinError: the inputs are not of the same images.
        ValueError: there are no prompts, or a table, a vector or a reference colour is not valid.
    """
    vocabulary = read_vocabulary(embeddings / "words.parquet")
    groups = tuple(vocabulary.words)
    template = PromptTemplate(groups, params.fallback)
    template.check_words(vocabulary.words)
    palettes = {
        group: palette
        for group, words in vocabulary.words.items()
        if (palette := reference_colors(words, params.reference_colors)) is not None
    }
    original = read_table(prompts, ORIGINAL_PROMPTS, PROMPT_COLUMNS)
    if not original.num_rows:
        raise DamagedOutputError(f"{prompts} holds no prompts.", prompts)
    image_ids = original.column("image_id").combine_chunks()
    vectors = embeddings / "images.parquet"
    images = ImageJoin(image_ids, prompts, vectors, exact=True)
    rows = image_rows(image_ids, iterate_ids(catalog), table=catalog, wanted_by=prompts, exact=True)
    true = read_truth(truth, image_ids, groups)
    scores = score_images(images, iterate_image_vectors(vectors), vocabulary.vectors)
    choices = {
        group: choose(scores[group], words, params.threshold)
        for group, words in vocabulary.words.items()
    }
    known = {group for group, words in true.items() if any(words)}
    pixel = _pixel_words(
        catalog,
        rows,
        {group: palette for group, palette in palettes.items() if group in known},
        workers,
    )
    chosen = {group: _chosen_words(choice) for group, choice in choices.items()}
    evaluations = {
        group: evaluate(words, chosen[group], true[group], pixel.get(group))
        for group, words in vocabulary.words.items()
    }
    return Enhancement(_tabulate(original, template, choices, chosen, pixel), evaluations)


def write_confusions(evaluations: Mapping[str, Evaluation], directory: Path) -> None:
    """Write ``{group}.csv`` with columns truth and predicted, one row an image with truth.

    The folder appears whole or not at all. A group without truth has a header only, so that the
    set of files depends on the vocabulary alone.
    """
    with atomic_directory(directory) as temporary:
        for group, evaluation in evaluations.items():
            with (temporary / f"{group}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["truth", "predicted"])
                writer.writerows(evaluation.confusion)


def _pixel_words(
    catalog: Path, rows: NDArray[np.int64], palettes: Mapping[str, Palette], workers: int
) -> dict[str, list[str]]:
    """Words of the pixel baseline for some rows of the catalog, in their order, by palette."""
    if not palettes:
        return {}
    named = progress(name_catalog(catalog, palettes, workers), "pixel colours", len(rows))
    words = [words for _, words in named]
    return {group: [words[row][group] for row in rows.tolist()] for group in palettes}


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
