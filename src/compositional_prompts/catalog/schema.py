"""The declared schema of every table that stages hand to one another.

Tables are joined on ``image_id``, never on row order. A column that is not nullable must be
present in every row; a nullable one is null where nothing is known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""One encoded image file and its name: the layout of the Hugging Face ``Image`` feature."""

TRUTH_COLUMNS = ("color", "material", "closure", "heel_height", "gender")
"""Nullable labels of the catalog that the enhancement is scored against, by attribute group.

Where several words are true they stand side by side with semicolons, and any of them is right."""

SPLIT_NAMES = ("train", "val", "test")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _with_image_feature(schema: pa.Schema) -> pa.Schema:
    """Mark the ``image`` column as a Hugging Face ``Image`` so that ``datasets`` decodes it."""
    features = {}
    for field in schema:
        if field.name == "image":
            features[field.name] = {"_type": "Image"}
        else:
            features[field.name] = {"dtype": str(field.type), "_type": "Value"}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


CATALOG = _with_image_feature(
    pa.schema(
        [
            _required("image_id", pa.string()),
            _required("product_id", pa.string()),
            _required("image", IMAGE),
            pa.field("attribute", pa.string()),
            pa.field("object", pa.string()),
            pa.field("title", pa.string()),
            pa.field("pair_split", pa.string()),
            *(pa.field(name, pa.string()) for name in TRUTH_COLUMNS),
        ]
    )
)
"""``data/catalog/``: one row an image. ``attribute`` and ``object`` are null together where an
image has no label; ``pair_split`` is set only by data sets that bring their own seen/unseen split;
``title`` is a product's free-form name."""

REJECTED = pa.schema(
    [
        _required("image_id", pa.string()),
        _required("path", pa.string()),
        _required("reason", pa.string()),
    ]
)
"""``data/rejected.parquet``: the images that were set aside, and why."""

CORPUS = _with_image_feature(
    pa.schema([_required("image", IMAGE), _required("caption", pa.string())])
)
"""``data/corpus.parquet``: images of the training split with their titles, for pretraining."""

SPLITS = pa.schema(
    [
        _required("image_id", pa.string()),
        _required("product_id", pa.string()),
        pa.field("attribute", pa.string()),
        pa.field("object", pa.string()),
        _required("caption_split", pa.string()),
        pa.field("pair_split", pa.string()),
        pa.field("pair_seen", pa.bool_()),
    ]
)
"""``data/splits.parquet``: the caption split of every image (train, val, test) and, for labelled
images, the split and the seen flag of compositional zero-shot learning."""

LISTED_PAIRS = pa.schema(
    [
        _required("attribute", pa.string()),
        _required("object", pa.string()),
        _required("split", pa.string()),
    ]
)
"""``data/listed_pairs.parquet``: the closed world of a data set that brings its own split, whether
or not a pair has images left; no rows for other data sets. ``split`` is train for a seen pair."""

PAIRS = pa.schema(
    [
        _required("attribute", pa.string()),
        _required("object", pa.string()),
        _required("split", pa.string()),
        _required("seen", pa.bool_()),
        _required("images", pa.int64()),
    ]
)
"""``data/pairs.parquet``: every pair of the closed world, sorted by attribute, then object.
``seen`` pairs have training images (``split`` is train); an unseen one has its images in the
``split`` named. A pair that the data set lists may have lost all its images."""

ORIGINAL_PROMPTS = pa.schema(
    [
        _required("image_id", pa.string()),
        _required("attribute", pa.string()),
        _required("object", pa.string()),
        _required("original_prompt", pa.string()),
        _required("probability", pa.float32()),
        _required("top_attributes", pa.list_(pa.string())),
        _required("top_objects", pa.list_(pa.string())),
        _required("top_probabilities", pa.list_(pa.float32())),
    ]
)
"""``data/prompts/original.parquet``: the predicted pair of every image and its best pairs, most
probable first; probabilities are a softmax over the closed world's pairs."""

CAPTIONS = pa.schema([_required("image_id", pa.string()), _required("caption", pa.string())])
"""``data/captions/{base,finetuned}.parquet``."""

IMAGE_IDS = pa.schema([_required("image_id", pa.string())])
"""Which images a shard of features holds, in its order, while ``blip2_features`` is under way."""

FEATURE_INDEX = pa.schema(
    [
        _required("image_id", pa.string()),
        _required("shard", pa.int32()),
        _required("row", pa.int32()),
    ]
)
"""``data/features/index.parquet``: the shard and the row in it that hold an image's features."""


def image_embeddings(dimension: int) -> pa.Schema:
    """``data/embeddings/images.parquet``: L2-normalised CLIP vectors, float32 ``[dimension]``."""
    return pa.schema(
        [
            _required("image_id", pa.string()),
            _required("embedding", pa.list_(pa.float32(), dimension)),
        ]
    )


def word_embeddings(dimension: int) -> pa.Schema:
    """``data/embeddings/words.parquet``: one L2-normalised vector a word of an attribute group."""
    return pa.schema(
        [
            _required("group", pa.string()),
            _required("word", pa.string()),
            _required("embedding", pa.list_(pa.float32(), dimension)),
        ]
    )


def enhanced_prompts(groups: Sequence[str]) -> pa.Schema:
    """``data/prompts/enhanced.parquet``: the enhanced prompt and, for each attribute group ``g``:

    ``g`` the chosen word (null below the threshold), ``g_best`` the best word whatever its score,
    ``g_score`` its cosine, ``g_margin`` its lead over the runner-up, ``g_scores`` the cosine of
    every word in the order of the vocabulary, ``g_pixel`` the nearest-pixel-colour baseline's word
    (null for groups without reference colours).
    """
    fields = [
        _required("image_id", pa.string()),
        _required("attribute", pa.string()),
        _required("object", pa.string()),
        _required("original_prompt", pa.string()),
        _required("enhanced_prompt", pa.string()),
    ]
    for group in groups:
        fields += [
            pa.field(group, pa.string()),
            _required(f"{group}_best", pa.string()),
            _required(f"{group}_score", pa.float32()),
            _required(f"{group}_margin", pa.float32()),
            _required(f"{group}_scores", pa.list_(pa.float32())),
            pa.field(f"{group}_pixel", pa.string()),
        ]
    return pa.schema(fields)


SCORES = pa.schema(
    [
        _required("image_id", pa.string()),
        _required("captioner", pa.string()),
        _required("caption", pa.string()),
        _required("reference", pa.string()),
        _required("bleu", pa.float64()),
        _required("rouge1", pa.float64()),
        _required("rouge2", pa.float64()),
        _required("rougeL", pa.float64()),
        _required("cosine", pa.float64()),
        _required("exact_match", pa.bool_()),
        _required("clip_caption", pa.float64()),
        _required("clip_reference", pa.float64()),
        _required("clip_preference", pa.string()),
    ]
)
"""``data/scores.parquet``: one row an image and captioner (``base``, ``finetuned``)."""
