"""The table of original prompts, which ``troika_predict`` writes."""

from __future__ import annotations

import pyarrow as pa

from compositional_prompts.files.tables import required

ORIGINAL_PROMPTS = pa.schema(
    [
        required("image_id", pa.string()),
        required("attribute", pa.string()),
        required("object", pa.string()),
        required("original_prompt", pa.string()),
        required("probability", pa.float32()),
        required("top_attributes", pa.list_(pa.string())),
        required("top_objects", pa.list_(pa.string())),
        required("top_probabilities", pa.list_(pa.float32())),
    ]
)
"""``data/prompts/original.parquet``: the predicted pair of every image and its best pairs, most
probable first; probabilities are a softmax over the closed world's pairs."""
