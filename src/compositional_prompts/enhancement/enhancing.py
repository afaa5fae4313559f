"""From original prompts and CLIP vectors to enhanced prompts and how true they are."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.clip.vector_tables import iterate_image_vectors
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.pixel_baseline import Palette, name_catalog
from compositional_prompts.enhancement.reference_colors import reference_colors
from compositional_prompts.enhancement.word_accuracy import Evaluation, GroupMetrics, evaluate
from compositional_prompts.enhancement.word_choice import Choice, choose, score_images
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.files.tables import read_table
from compositional_prompts.pipeline.progress import progress
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
        ValueError: there are no prompts, the inputs are not of the same images, or a table, a
            vector or a reference colour is not valid.
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
    image_ids = _image_ids(original, prompts)
    _check_same_images(catalog, image_ids, prompts)
    true = read_truth(truth, image_ids, groups)
    scores = score_images(
        image_ids, iterate_image_vectors(embeddings / "images.parquet"), vocabulary.vectors
    )
    choices = {
        group: choose(scores[group], words, params.threshold)
        for group, words in vocabulary.words.items()
    }
    known = {group for group, words in true.items() if any(words)}
    pixel = _pixel_words(
        catalog,
        image_ids,
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


def _image_ids(original: pa.Table, prompts: Path) -> pa.StringArray:
    if original.num_rows == 0:
        raise ValueError(f"{prompts} holds no prompts: run download and troika_predict again.")
    image_ids = original.column("image_id").combine_chunks()
    counts = pc.value_counts(image_ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise ValueError(
            f"{prompts}: image {twice[0]['values']} has {twice[0]['counts']} prompts, expected one."
        )
    return image_ids


def _check_same_images(catalog: Path, image_ids: pa.StringArray, prompts: Path) -> None:
    catalog_ids = read_labels(catalog, ["image_id"]).column("image_id").combine_chunks()
    rows = pc.index_in(image_ids, value_set=catalog_ids)
    if rows.null_count:
        raise ValueError(
            f"{prompts}: image {image_ids.filter(rows.is_null())[0]} is not in {catalog}; "
            "run troika_predict again."
        )
    absent = pc.invert(pc.is_in(catalog_ids, value_set=image_ids))
    if pc.any(absent).as_py():
        raise ValueError(
            f"{prompts}: image {catalog_ids.filter(absent)[0]} of {catalog} has no prompt; "
            "run troika_predict again."
        )


def _pixel_words(
    catalog: Path, image_ids: pa.StringArray, palettes: Mapping[str, Palette], workers: int
) -> dict[str, list[str]]:
    """Words of the pixel baseline, in the order of ``image_ids``, for every palette."""
    if not palettes:
        return {}
    named = dict(
        progress(name_catalog(catalog, palettes, workers), "pixel colours", len(image_ids))
    )
    order = image_ids.to_pylist()
    return {group: [named[image_id][group] for image_id in order] for group in palettes}


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
