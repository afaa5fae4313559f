"""The table of enhanced prompts, which ``enhance`` writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from compositional_prompts.catalog.image_join import IDS_AT_ONCE, rows_of_images
from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.tables import open_parquet, required


def enhanced_prompts_schema(groups: Sequence[str], *, with_attributes: bool = False) -> pa.Schema:
    """``data/prompts/enhanced.parquet``: the enhanced prompt and, for each attribute group ``g``:

    ``g`` the chosen word (null below the threshold, or where it is too uncertain), ``g_best`` the
    best word whatever its score, ``g_score`` its score, ``g_margin`` its lead over the runner-up,
    ``g_scores`` the score of every word in the order of the vocabulary, ``g_probability`` the
    calibrated probability of the best word (null where nothing calibrates), ``g_pixel`` the
    nearest-pixel-colour baseline's word (null for groups without reference colours). A score is a
    cosine with the method ``cosine``, else the natural logarithm of a probability before it is
    calibrated. Where labels are objects alone, ``attribute`` is null in every row; tables of both
    kinds are read by one schema, and ``with_attributes`` is for writing: no row may lack one.
    """
    fields = [
        required("image_id", pa.string()),
        pa.field("attribute", pa.string(), nullable=not with_attributes),
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
            pa.field(f"{group}_probability", pa.float32()),
            pa.field(f"{group}_pixel", pa.string()),
        ]
    return pa.schema(fields)


def prompts_of(prompts: Path, image_ids: Sequence[str], wanted_by: Path | None = None) -> list[str]:
    """The enhanced prompts of the given images, in their order.

    Args:
        prompts: ``enhanced.parquet``.
        image_ids: the images.
        wanted_by: the table that names them, for the error.

    Raises:
        ImageJoinError: an image has none.
    """
    require_outputs(prompts)
    with open_parquet(prompts) as file:
        batches = file.iter_batches(IDS_AT_ONCE, columns=["image_id", "enhanced_prompt"])
        table = rows_of_images(image_ids, batches, table=prompts, wanted_by=wanted_by)
    texts: list[str] = table.column("enhanced_prompt").to_pylist()
    return texts


def check_group_names(groups: Sequence[str]) -> None:
    """Raise :class:`ValueError` where a group cannot name columns and a file of its own."""
    for group in groups:
        if not re.fullmatch(r"\w[\w -]*", group):
            raise ValueError(
                f"clip_embed.attributes: group {group!r} must be made of letters, digits, spaces, "
                "'_' and '-', because it names columns and files; rename it."
            )
    columns = Counter(enhanced_prompts_schema(groups).names)
    twice = [name for name, count in columns.items() if count > 1]
    if twice:
        raise ValueError(
            f"clip_embed.attributes: the groups {', '.join(groups)} would give the enhanced "
            f"prompts two columns {twice[0]!r}; rename one."
        )
