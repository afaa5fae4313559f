"""The table of recommended texts, which ``recommend`` writes."""

from __future__ import annotations

import pyarrow as pa

from compositional_prompts.files.tables import required

CAPTION, ENHANCED = "caption", "enhanced"
"""Where a recommended text is from: the fine-tuned BLIP-2, or Troika and CLIP."""

RECOMMENDED = pa.schema(
    [
        required("image_id", pa.string()),
        required("split", pa.string()),
        required("original", pa.string()),
        required("enhanced", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("free_caption", pa.string()),
        required("recommended", pa.string()),
        required("source", pa.string()),
        required("readable", pa.string()),
    ]
)
"""``data/recommended.parquet``: a row for every image of the catalog, in the order of the enhanced
prompts. ``caption`` is null where none was made (``infer.split``, ``infer.images``)."""
