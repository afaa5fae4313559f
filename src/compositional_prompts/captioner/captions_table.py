"""The table of captions, which ``infer`` writes."""

from __future__ import annotations

import pyarrow as pa

from compositional_prompts.files.tables import required

CAPTIONS = pa.schema(
    [
        required("image_id", pa.string()),
        required("caption", pa.string()),
        pa.field("free_caption", pa.string()),
    ]
)
"""``data/captions/{base,finetuned}.parquet``. Where ``caption`` is written by the grammar,
``free_caption`` of validation and test images is what the same model writes without it; elsewhere
it is null."""
