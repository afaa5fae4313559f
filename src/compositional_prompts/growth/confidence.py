"""How sure models are of every photo: of its pair, and of the word of every attribute group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.image_join import image_rows
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.tables import read_table
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS

PAIR = "pair"
"""The place of Troika's pair among the groups."""

TENTH = 0.1
"""A photo is unsure where it is below what nine of ten held-out photos had."""

Confidence = Mapping[str, NDArray[np.float32]]
"""Of every photo, by place: a pair's probability, a word's lead over the next word of its group.
A word that was left unspecified, below ``enhance.threshold``, has -inf."""


def pair_confidence(original: Path, image_ids: pa.ChunkedArray, catalog: Path) -> Confidence:
    """The probability of every photo's pair.

    Args:
        original: ``original.parquet``.
        image_ids: of the photos, in the order in which they are wanted.
        catalog: that names them, for the error.

    Raises:
        ImageJoinError: the table is not of the same photos.
    """
    table = read_table(original, ORIGINAL_PROMPTS, ["image_id", "probability"])
    aligned = _aligned(table, image_ids, original, catalog)
    return {PAIR: aligned.column("probability").to_numpy()}


def word_confidence(
    enhanced: Path, groups: tuple[str, ...], image_ids: pa.ChunkedArray, catalog: Path
) -> Confidence:
    """The lead of every photo's word, of each group; as :func:`pair_confidence`."""
    names = ["image_id", *groups, *(f"{group}_margin" for group in groups)]
    table = read_table(enhanced, enhanced_prompts_schema(groups), names)
    aligned = _aligned(table, image_ids, enhanced, catalog)
    found = {}
    for group in groups:
        unspecified = aligned.column(group).is_null().to_numpy()
        lead = aligned.column(f"{group}_margin").to_numpy()
        found[group] = np.where(unspecified, np.float32(-np.inf), lead)
    return found


def chosen_words(
    enhanced: Path, groups: tuple[str, ...], image_ids: pa.ChunkedArray, catalog: Path
) -> pa.Table:
    """The words of every photo, a column a group; as :func:`pair_confidence`."""
    schema = enhanced_prompts_schema(groups)
    table = read_table(enhanced, schema, ["image_id", *groups])
    return _aligned(table, image_ids, enhanced, catalog)


def unsure_below(confidence: Confidence, held_out: NDArray[np.bool_]) -> dict[str, float]:
    """What nine of ten held-out photos have at least, by place.

    Args:
        confidence: of every photo.
        held_out: bool ``[photos]``: those that were not learnt from, on which a model is not
            flattered. Without any, all photos count.
    """
    chosen = held_out if held_out.any() else np.ones_like(held_out)
    found = {}
    for place, values in confidence.items():
        known = values[chosen]
        known = known[np.isfinite(known)]
        if len(known):
            found[place] = float(np.quantile(known, TENTH))
    return found


def _aligned(table: pa.Table, image_ids: pa.ChunkedArray, path: Path, catalog: Path) -> pa.Table:
    found = table.column("image_id").chunks
    return table.take(image_rows(image_ids, found, table=path, wanted_by=catalog, exact=True))
