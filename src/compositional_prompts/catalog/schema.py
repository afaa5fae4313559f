"""An image and its labels: the schema of the catalog, and a row of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from compositional_prompts.files.digests import CONTENT_BYTES
from compositional_prompts.files.tables import IMAGE, required, with_image_feature

CATALOG = with_image_feature(
    pa.schema(
        [
            required("image_id", pa.string()),
            required("product_id", pa.string()),
            required("content", pa.binary(CONTENT_BYTES)),
            pa.field("image", IMAGE),
            pa.field("attribute", pa.string()),
            pa.field("object", pa.string()),
            pa.field("title", pa.string()),
            pa.field("pair_split", pa.string()),
        ]
    )
)
"""``data/catalog/``: one row an image. ``attribute`` and ``object`` are null together where an
image has no label. Where labels are objects alone, ``attribute`` is null in every row; in no
catalog do both kinds of label stand beside each other. ``pair_split`` is set only by data sets that
bring their own seen/unseen split;
``title`` is a product's free-form name. ``content`` is the digest of the encoded image
(:func:`~compositional_prompts.files.digests.content_digest`), the key of all that is computed of
it: equal photos under two names have one."""


class CatalogRow(NamedTuple):
    """One image and what is known of it. See the CATALOG schema.

    Attributes:
        image: None where its bytes could not be had: ingestion sets such a row aside.
        path: where it came from.
        attribute: with an object, its label; None beside an object where the labels of the whole
            data set are objects alone. In a data set of pairs a row that has one of both only is
            taken as one without a label, and counted.
        truth: by attribute group, the true word, or several with semicolons between
            (:mod:`~compositional_prompts.catalog.truth`); None or blank where not known.
        rejection: why the data set itself says that it cannot be used, in a word or two as those
            of :data:`~compositional_prompts.datasets.image_limits.PHOTO_REASONS`: ingestion sets
            the row aside and counts it so. None leaves it to what the bytes are.
    """

    image_id: str
    product_id: str
    image: bytes | None
    path: str
    attribute: str | None = None
    object: str | None = None
    title: str | None = None
    pair_split: str | None = None
    truth: Mapping[str, str | None] = {}  # nobody writes to it, and a proxy cannot be pickled
    rejection: str | None = None
