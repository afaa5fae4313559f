"""The table of enhanced prompts, which ``enhance`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from compositional_prompts.files.outputs import MismatchedOutputsError
from compositional_prompts.files.tables import required


def enhanced_prompts_schema(groups: Sequence[str]) -> pa.Schema:
    """``data/prompts/enhanced.parquet``: the enhanced prompt and, for each attribute group ``g``:

    ``g`` the chosen word (null below the threshold), ``g_best`` the best word whatever its score,
    ``g_score`` its cosine, ``g_margin`` its lead over the runner-up, ``g_scores`` the cosine of
    every word in the order of the vocabulary, ``g_pixel`` the nearest-pixel-colour baseline's word
    (null for groups without reference colours).
    """
    fields = [
        required("image_id", pa.string()),
        required("attribute", pa.string()),
        required("object", pa.string()),
        required("original_prompt", pa.string()),
        required("enhanced_prompt", pa.string()),
    ]
    for group in groups:
        fields += [
            pa.field(group, pa.string()),
            required(f"{group}_best", pa.string()),
            required(f"{group}_score", pa.float32()),
            required(f"{group}_margin", pa.float32()),
            required(f"{group}_scores", pa.list_(pa.float32())),
            pa.field(f"{group}_pixel", pa.string()),
        ]
    return pa.schema(fields)


def prompts_of(prompts: Path, image_ids: list[str]) -> list[str]:
    """The enhanced prompts of the given images, in their order.

    Raises:
        MismatchedOutputsError: an image has none.
    """
    table = pl.read_parquet(prompts, columns=["image_id", "enhanced_prompt"])
    by_id = dict(zip(table["image_id"], table["enhanced_prompt"], strict=True))
    missing = [image_id for image_id in image_ids if image_id not in by_id]
    if missing:
        raise MismatchedOutputsError(
            f"{prompts}: {len(missing)} images have no enhanced prompt, among them {missing[0]!r}.",
            prompts,
        )
    return [by_id[image_id] for image_id in image_ids]
