"""Which text to use of an image, its caption or its enhanced prompt, by what validation shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.captioner.parameters import Target
from compositional_prompts.catalog.image_join import image_rows
from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.catalog.splitting.split_tables import JUDGED_SPLIT, SPLITS
from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.outputs import (
    DamagedOutputError,
    MismatchedOutputsError,
    require_outputs,
)
from compositional_prompts.files.tables import read_table
from compositional_prompts.prompt.template import slot_reader
from compositional_prompts.results.bootstrap import product_codes
from compositional_prompts.scoring.judged_texts import Judgement, Text, judge
from compositional_prompts.scoring.parameters import Recommend
from compositional_prompts.scoring.recommended_texts import CAPTION, ENHANCED, RECOMMENDED
from compositional_prompts.scoring.scoring_inputs import LABEL_PLACES, label_places, prompt_groups
from compositional_prompts.scoring.shortcomings import caption_warnings
from compositional_prompts.scoring.slot_accuracy import SlotReader, mentions


@dataclass(frozen=True)
class RecommendPaths:
    """What is read.

    Attributes:
        catalog: folder of the catalog's shards.
        splits: ``splits.parquet``.
        truth: ``truth.parquet``.
        prompts: ``enhanced.parquet``.
        captions: ``finetuned.parquet``.
        finetuning: the metrics of fine-tuning, which say how many images it learnt from.
    """

    catalog: Path
    splits: Path
    truth: Path
    prompts: Path
    captions: Path
    finetuning: Path


@dataclass(frozen=True)
class Recommendation:
    """``table`` as ``RECOMMENDED``, and ``metrics`` as in ``metrics/recommend.json``."""

    table: pa.Table
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class _Texts:
    """Columns of all images, in the order of the enhanced prompts.

    Attributes:
        table: ``image_id``, ``product_id``, ``split``, ``original``, ``enhanced``, ``caption``,
            ``free_caption``.
        places: attribute, object and the groups; no attribute where labels are objects alone.
        words: of each place, the enhanced prompt's word.
        truth: of each place, the true words.
    """

    table: pa.Table
    places: Sequence[str]
    words: Mapping[str, Sequence[str | None]]
    truth: Mapping[str, Sequence[Sequence[str]]]

    @property
    def groups(self) -> Sequence[str]:
        """The attribute groups."""
        return tuple(place for place in self.places if place not in LABEL_PLACES)

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.table.column(name).to_pylist()
        return values

    def mentioned(self, text: str, row: int) -> dict[str, str | None]:
        """Of each place a true word that stands in a text, None where none does."""
        return {
            place: next((word for word in self.truth[place][row] if mentions(text, word)), None)
            for place in self.places
        }

    def slots(self, row: int) -> dict[str, str | None]:
        """The words of the enhanced prompt."""
        return {place: self.words[place][row] for place in self.places}


def recommend_texts(
    paths: RecommendPaths, params: Recommend, target: Target = "enhanced"
) -> Recommendation:
    """Choose the text of every image, and say what speaks for it and against the captions.

    The captions are recommended if at least ``min_labelled`` validation images have a label or
    truth, and of what is known of these images captions say at least as much rightly as enhanced
    prompts do. A caption that is missing or off the template is replaced by the enhanced prompt all
    the same. Memory holds the texts.

    Captions that were learnt from titles follow no template: they say what true words they mention,
    and are readable as they are.

    Args:
        paths: what is read.
        params: the section ``recommend``.
        target: what captions were learnt from.

    Raises:
        FileNotFoundError: an input is not there.
        SchemaError: an input is not as declared.
        ImageJoinError, MismatchedOutputsError: the inputs are not of one catalog.
        ReadableTemplateError: ``readable.template`` names a group that there is not.
    """
    texts = _read(paths)
    train_images = _train_images(paths.finetuning)
    readable = params.readable.of(texts.groups)
    read_slots = _slot_reader(texts)
    templated = target == "enhanced"
    judgement = _judge(texts, read_slots, params.min_labelled, templated=templated)
    captions = texts.column("caption")
    rows = [
        judgement.recommended == CAPTION
        and caption is not None
        and (not templated or read_slots(caption) is not None)
        for caption in captions
    ]
    slots = [
        read_slots(caption) if own else texts.slots(row)
        for row, (own, caption) in enumerate(zip(rows, captions, strict=True))
    ]
    columns = {
        "recommended": [
            caption if own else enhanced
            for own, caption, enhanced in zip(rows, captions, texts.column("enhanced"), strict=True)
        ],
        "source": [CAPTION if own else ENHANCED for own in rows],
        "readable": [
            caption if own and not templated else readable.write(words or {})
            for own, caption, words in zip(rows, captions, slots, strict=True)
        ],
    }
    table = texts.table
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    made = [caption for caption in captions if caption is not None]
    off_template = sum(read_slots(caption) is None for caption in made) if templated else 0
    metrics = {
        **judgement.metrics(),
        "texts": {CAPTION: sum(rows), ENHANCED: len(rows) - sum(rows)},
        "captions": len(made),
        "off_template": off_template,
        "train_images": train_images,
        "warnings": caption_warnings(judgement, train_images, len(made), off_template),
    }
    return Recommendation(table.select(RECOMMENDED.names), metrics)


def _judge(
    texts: _Texts, read_slots: SlotReader, min_labelled: int, *, templated: bool
) -> Judgement:
    """What the captions and the enhanced prompts of the validation images say."""

    def said(text: str, row: int) -> Mapping[str, str | None] | None:
        return read_slots(text) if templated else texts.mentioned(text, row)

    split, captions = texts.column("split"), texts.column("caption")
    rows = [
        row
        for row, (name, caption) in enumerate(zip(split, captions, strict=True))
        if name == JUDGED_SPLIT and caption is not None
    ]
    free = texts.column("free_caption")
    enhanced = texts.column("enhanced")
    sources: dict[str, list[Text]] = {
        ENHANCED: [(enhanced[row], texts.slots(row)) for row in rows],
        CAPTION: [(captions[row], said(captions[row], row)) for row in rows],
    }
    if rows and all(free[row] is not None for row in rows):
        sources["free_caption"] = [(free[row], said(free[row], row)) for row in rows]
    truth = {place: [texts.truth[place][row] for row in rows] for place in texts.places}
    products = product_codes(texts.table.column("product_id").take(pa.array(rows, pa.int64())))
    return judge(sources, truth, products, min_labelled, templated=templated)


def _read(paths: RecommendPaths) -> _Texts:
    groups = prompt_groups(paths.prompts)
    named = label_places(paths.prompts)
    places = (*named, *groups)
    names = ["image_id", "original_prompt", "enhanced_prompt", *places]
    prompts = read_table(paths.prompts, enhanced_prompts_schema(groups), names)
    ids = prompts.column("image_id").combine_chunks()

    def aligned(table: pa.Table, path: Path) -> pa.Table:
        found = table.column("image_id").chunks
        return table.take(image_rows(ids, found, table=path, wanted_by=paths.prompts, exact=True))

    splits = read_table(paths.splits, SPLITS, ["image_id", "product_id", "caption_split"])
    labels = aligned(read_labels(paths.catalog, ["image_id", *named]), paths.catalog)
    captions = _captions(paths, ids)
    splits = aligned(splits, paths.splits)
    table = pa.table(
        {
            "image_id": ids,
            "product_id": splits.column("product_id"),
            "split": splits.column("caption_split"),
            "original": prompts.column("original_prompt"),
            "enhanced": prompts.column("enhanced_prompt"),
            "caption": captions.column("caption"),
            "free_caption": captions.column("free_caption"),
        }
    )
    labelled = {
        name: [() if label is None else (label,) for label in labels.column(name).to_pylist()]
        for name in named
    }
    words = {place: prompts.column(place).to_pylist() for place in places}
    return _Texts(table, places, words, {**labelled, **read_truth(paths.truth, ids, groups)})


def _train_images(finetuning: Path) -> int:
    """How many images the captioner learnt from."""
    require_outputs(finetuning)
    try:
        return int(json.loads(finetuning.read_text(encoding="utf-8"))["train_images"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedOutputError(
            f"{finetuning} must be JSON with a number train_images ({error!r}).", finetuning
        ) from error


def _captions(paths: RecommendPaths, ids: pa.Array) -> pa.Table:
    """The captions of the given images, in their order; null where there is none."""
    table = read_table(paths.captions, CAPTIONS)
    found = table.column("image_id").combine_chunks()
    unknown = found.filter(pc.invert(pc.is_in(found, ids)))
    if len(unknown):
        raise MismatchedOutputsError(
            f"{paths.captions} has {len(unknown)} images that {paths.prompts} lacks, the first "
            f"{unknown[0].as_py()!r}: both must be made from one catalog.",
            paths.captions,
            paths.prompts,
        )
    return table.take(pc.index_in(ids, found))


def _slot_reader(texts: _Texts) -> SlotReader:
    """Reads every distinct text once."""
    attributes = None
    if "attribute" in texts.places:
        attributes = {
            *(word for word in texts.words["attribute"] if word is not None),
            *(word for words in texts.truth["attribute"] for word in words),
        }
    return cache(slot_reader(texts.groups, attributes))
