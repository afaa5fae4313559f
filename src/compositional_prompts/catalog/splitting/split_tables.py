"""The tables that the stage ``split`` reads and writes: splits of images, and pairs."""

from __future__ import annotations

import pyarrow as pa

from compositional_prompts.files.tables import or_null, required

SPLIT_NAMES = ("train", "val", "test")

SCORED_SPLIT = "test"
"""The caption split whose captions are scored, untrained and fine-tuned."""

JUDGED_SPLIT = "val"
"""The caption split by which it is judged whether captions may be recommended."""

SPLITS = pa.schema(
    [
        required("image_id", pa.string()),
        required("product_id", pa.string()),
        pa.field("attribute", pa.string()),
        pa.field("object", pa.string()),
        required("caption_split", pa.string()),
        pa.field("pair_split", pa.string()),
        pa.field("pair_seen", pa.bool_()),
    ]
)
"""``data/splits.parquet``: the caption split of every image (train, val, test) and, for labelled
images, the split and the seen flag of compositional zero-shot learning."""

LISTED_PAIRS = pa.schema(
    [
        required("attribute", pa.string()),
        required("object", pa.string()),
        required("split", pa.string()),
    ]
)
"""``data/listed_pairs.parquet``: the closed world of a data set that brings its own split, whether
or not a pair has images left; no rows for other data sets. ``split`` is train for a seen pair."""

PAIRS = pa.schema(
    [
        required("attribute", pa.string()),
        required("object", pa.string()),
        required("split", pa.string()),
        required("seen", pa.bool_()),
        required("images", pa.int64()),
    ]
)
"""``data/pairs.parquet``: every pair of the closed world, sorted by attribute, then object.
``seen`` pairs have training images (``split`` is train); an unseen one has its images in the
``split`` named. A pair that the data set lists may have lost all its images."""

PAIRS_OF_OBJECTS = or_null(PAIRS, "attribute")
"""The same where labels are objects alone: ``attribute`` is null in every row, and there are no
unseen pairs, but for objects that a split of the data set's own keeps from training. Tables of both
kinds are read by it."""


def pairs_schema(pairs: pa.Table) -> pa.Schema:
    """That of :data:`PAIRS` or :data:`PAIRS_OF_OBJECTS` that a table is to be written by."""
    return PAIRS_OF_OBJECTS if pairs.column("attribute").null_count else PAIRS
