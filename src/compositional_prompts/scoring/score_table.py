"""The table of every metric of every caption, which ``score`` writes."""

from __future__ import annotations

import pyarrow as pa

from compositional_prompts.files.tables import required

SCORES = pa.schema(
    [
        required("image_id", pa.string()),
        required("captioner", pa.string()),
        required("caption", pa.string()),
        required("reference", pa.string()),
        required("bleu", pa.float64()),
        required("rouge1", pa.float64()),
        required("rouge2", pa.float64()),
        required("rougeL", pa.float64()),
        required("cider_d", pa.float64()),
        required("meteor_stem", pa.float64()),
        pa.field("bert_score", pa.float64()),
        required("cosine", pa.float64()),
        required("clip_score", pa.float64()),
        required("ref_clip_score", pa.float64()),
        required("exact_match", pa.bool_()),
        required("clip_caption", pa.float64()),
        required("clip_reference", pa.float64()),
        required("clip_preference", pa.string()),
    ]
)
"""``data/scores.parquet``: one row an image and captioner (``base``, ``finetuned``, and
``finetuned_free`` where ``infer.grammar`` is true). The reference is the enhanced prompt, which
machines wrote. ``bert_score`` is null where ``score.bert_score`` is. Each is defined in
docs/metrics.md."""
