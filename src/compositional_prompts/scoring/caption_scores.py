"""Every metric of every caption, a table of them, and their summary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.image_join import ImageJoin
from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.clip.vector_tables import iterate_image_vectors
from compositional_prompts.files.outputs import atomic_file, rounded
from compositional_prompts.files.records.spreadsheet_cells import CsvTable
from compositional_prompts.prompt.text_metrics import TEXT_METRICS, score_texts
from compositional_prompts.results.bootstrap import Column, FigurePath
from compositional_prompts.scoring.caption_intervals import caption_means
from compositional_prompts.scoring.caption_metrics.bert_score import BertScorer
from compositional_prompts.scoring.caption_metrics.cider import cider_d
from compositional_prompts.scoring.caption_metrics.meteor import meteor_stem
from compositional_prompts.scoring.clip_scores import (
    DEPICTING,
    PREFERENCES,
    TextVectors,
    clip_score,
    cosines,
    embed_distinct,
    image_text_cosines,
    prefer,
    ref_clip_score,
)
from compositional_prompts.scoring.parameters import Score
from compositional_prompts.scoring.score_table import SCORES
from compositional_prompts.scoring.scoring_inputs import ScoringInputs
from compositional_prompts.scoring.slot_accuracy import MENTIONED, SlotReader, slot_hits

log = logging.getLogger(__name__)

SPREAD_METRICS = (
    *TEXT_METRICS,
    *("cider_d", "meteor_stem", "bert_score", "cosine", "clip_score", "ref_clip_score"),
)
"""Metrics summarised by best, mean and worst, where they were measured."""
MakeSlotReader = Callable[[Sequence[str], Collection[str] | None], SlotReader]
"""Makes the reader of captions, given the groups and every attribute that may occur; None: prompts
name objects alone."""


@dataclass(frozen=True)
class Scores:
    """``table`` as ``SCORES``, and ``metrics`` as in ``metrics/scores.json``."""

    table: pa.Table
    metrics: Mapping[str, Mapping[str, Any]]


def score_captions(
    inputs: ScoringInputs,
    embeddings: Path,
    clip: Clip,
    make_slot_reader: MakeSlotReader,
    params: Score,
    bert_score: BertScorer | None = None,
) -> Scores:
    """Score the captions of every captioner; each metric is defined in docs/metrics.md.

    Memory holds the texts, two vectors a distinct text, with and without what CLIPScore sets before
    it, and n-grams for CIDEr-D; image vectors are streamed. Time is linear in the distinct pairs.

    Args:
        inputs: captions, references and truth of at least one image.
        embeddings: ``images/``, at least of the images scored.
        clip: the model that the image vectors come from.
        make_slot_reader: see ``MakeSlotReader``.
        params: the section ``score``.
        bert_score: BERTScore of pairs of texts; null where it is not asked for.

    Raises:
        ImageJoinError: an image has no vector.
        ValueError: the vectors are not of the model's width.
    """
    attributes = None
    if "attribute" in inputs.enhanced:
        attributes = {
            *(name for name in inputs.enhanced["attribute"] if name is not None),
            *(name for names in inputs.truth["attribute"] for name in names),
        }
    read_slots = make_slot_reader(inputs.groups, attributes)
    plain = {"reference": inputs.references, **inputs.captions}
    distinct = dict.fromkeys(text for column in plain.values() for text in column)
    texts = {("", name): column for name, column in plain.items()}
    depicting = {text: DEPICTING + text for text in distinct}
    texts |= {
        (DEPICTING, name): [depicting[text] for text in column] for name, column in plain.items()
    }
    vectors = embed_distinct(clip, (*distinct, *depicting.values()), params.batch_size)
    images = ImageJoin(inputs.image_ids, inputs.source, embeddings)
    image_cosines = image_text_cosines(images, texts, vectors, iterate_image_vectors(embeddings))

    def reference_cosines(prefix: str, captioner: str) -> NDArray[np.float64]:
        a, b = (vectors.of(texts[prefix, name]) for name in (captioner, "reference"))
        return cosines(a, b)

    tables = []
    spread: dict[str, dict[str, Any]] = {}
    shares: dict[str, dict[FigurePath, Column]] = {}
    for captioner, captions in inputs.captions.items():
        cider = cider_d(captions, inputs.references)
        clip_scores = clip_score(image_cosines[DEPICTING, captioner])
        preferences = prefer(
            image_cosines["", captioner], image_cosines["", "reference"], inputs.target
        )
        columns = {
            **score_texts(captions, inputs.references, params.bleu_tokenize),
            "cider_d": cider.values,
            "meteor_stem": meteor_stem(captions, inputs.references),
            **({"bert_score": bert_score(captions, inputs.references)} if bert_score else {}),
            "cosine": reference_cosines("", captioner),
            "clip_score": clip_scores,
            "ref_clip_score": ref_clip_score(clip_scores, reference_cosines(DEPICTING, captioner)),
            "exact_match": np.array(
                [a == b for a, b in zip(captions, inputs.references, strict=True)]
            ),
            "clip_caption": image_cosines["", captioner],
            "clip_reference": image_cosines["", "reference"],
            "clip_preference": preferences,
        }
        tables.append(_tabulate(inputs, captioner, columns))
        spread[captioner] = {
            **({} if inputs.target == "enhanced" else _of_titles(inputs)),
            **_spread(columns, inputs.target),
            "indistinct_references": cider.indistinct_references,
            **_cut_by_clip(captioner, texts[DEPICTING, captioner], vectors),
        }
        shares[captioner] = {
            **{(name, "mean"): (columns[name], None) for name in SPREAD_METRICS if name in columns},
            ("exact_match",): (columns["exact_match"], None),
            **_slot_columns(inputs, captions, read_slots),
        }
    if cider.indistinct_references:
        log.warning(
            "CIDEr-D is 0 for %d of %d images, whatever their captions say: their prompts have no "
            "words that tell them from the other prompts.",
            *(cider.indistinct_references, len(inputs.references)),
        )
    means = caption_means(shares, inputs.products)
    metrics = {captioner: _merged(spread[captioner], means[captioner]) for captioner in spread}
    return Scores(pa.concat_tables(tables), metrics)


def write_means(metrics: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write rows ``captioner,metric,value`` of every mean and share, for a bar plot."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = CsvTable(file, ["captioner", "metric", "value"])
        for captioner, values in metrics.items():
            means = {name: values[name]["mean"] for name in SPREAD_METRICS if name in values}
            means |= {
                name: values[name]
                for name in ("exact_match", "well_formed")
                if values[name] is not None
            }
            for name, value in rounded(means).items():
                table.write({"captioner": captioner, "metric": name, "value": value})


def _tabulate(
    inputs: ScoringInputs, captioner: str, columns: Mapping[str, NDArray[Any]]
) -> pa.Table:
    return pa.table(
        {
            "image_id": inputs.image_ids,
            "captioner": [captioner] * len(inputs.image_ids),
            "caption": inputs.captions[captioner],
            "reference": inputs.references,
            "bert_score": [None] * len(inputs.image_ids),
            **columns,
        },
        schema=SCORES,
    )


def _cut_by_clip(captioner: str, texts: Sequence[str], vectors: TextVectors) -> dict[str, int]:
    """How many captions CLIP may not have read to their end, where it is any."""
    cut = int(sum(vectors.full[vectors.rows[text]] for text in texts))
    if not cut:
        return {}
    log.warning(
        "warning: %d of %d captions (%s) fill the context of CLIP, which reads no further: its "
        "scores judge their beginnings.",
        *(cut, len(texts), captioner),
    )
    return {"cut_by_clip": cut}


def _of_titles(inputs: ScoringInputs) -> dict[str, Any]:
    """What is said of scores against titles alone."""
    return {"target": inputs.target, "untitled": inputs.untitled}


def _spread(columns: Mapping[str, NDArray[Any]], target: str) -> dict[str, Any]:
    """What is no mean: extremes and counts."""
    preferences = columns["clip_preference"].tolist()
    return {
        "images": len(preferences),
        **{
            name: {"best": float(columns[name].max()), "worst": float(columns[name].min())}
            for name in SPREAD_METRICS
            if name in columns
        },
        "clip_preference": {
            name: preferences.count(name) for name in (PREFERENCES[0], target, PREFERENCES[2])
        },
    }


def _slot_columns(
    inputs: ScoringInputs, captions: Sequence[str], read_slots: SlotReader
) -> dict[FigurePath, Column]:
    distinct = {caption: read_slots(caption) for caption in dict.fromkeys(captions)}
    slots = [distinct[caption] for caption in captions]
    # A caption that learnt from titles has no places: what can be found in it are words.
    formed = None if inputs.target == "enhanced" else np.zeros(len(captions), np.bool_)
    return {
        ("well_formed",): (np.array([read is not None for read in slots]), formed),
        **{
            ("attributes", name, share): (
                column if formed is None or share == MENTIONED else (column[0], formed)
            )
            for name in inputs.enhanced
            for share, column in slot_hits(
                captions, slots, name, inputs.enhanced[name], inputs.truth[name]
            ).columns.items()
        },
    }


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both, in the order of the first; of a key that both have, what is below it of both."""
    found = dict(first)
    for key, value in second.items():
        below = found.get(key)
        found[key] = _merged(below, value) if isinstance(below, dict) else value
    return found
