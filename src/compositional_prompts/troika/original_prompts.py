"""The table of original prompts, which ``troika_predict`` writes."""

from __future__ import annotations

import pyarrow as pa

from compositional_prompts.files.tables import or_null, required

JUDGED = pa.struct(
    [
        required("scorer", pa.string()),
        required("world", pa.string()),
        required("seen", pa.bool_()),
        required("hit", pa.bool_()),
        required("margin", pa.float64()),
        required("attribute_hit", pa.bool_()),
        required("object_hit", pa.bool_()),
    ]
)
"""How a labelled test image was judged by ``troika`` or ``zero_shot`` in the ``closed`` or ``open``
world: what :class:`~compositional_prompts.results.czsl_figures.JudgedImages` holds of it. Where
images are named by objects alone, ``attribute_hit`` is true, and says nothing. All
metrics of compositional zero-shot learning can be made of it again, of any images."""

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
        pa.field("judged", pa.list_(JUDGED)),
    ]
)
"""``data/prompts/original.parquet``: the predicted pair of every image and its best pairs, most
probable first; probabilities are a softmax over the closed world's pairs. ``judged`` has an entry
for every scorer and world, and is null of images that are not measured."""

PROMPTS_OF_OBJECTS = or_null(ORIGINAL_PROMPTS, "attribute")
"""The same where labels are objects alone: ``attribute`` is null in every row, and so is every item
of ``top_attributes``. Tables of both kinds are read by it."""
