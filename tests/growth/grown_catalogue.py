"""Tables of a made-up catalogue, as the stages before ``drift`` leave them, without any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from compositional_prompts.catalog.schema import CATALOG
from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLITS
from compositional_prompts.clip.vector_tables import word_embeddings
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.tables import write_table
from compositional_prompts.results.kept_models import (
    CONTENTS,
    CONTENTS_FILE,
    Origin,
    write_origin,
)
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS

ORIGIN = Origin(
    kept="2026-01-05T08:00:00+00:00",
    commit=None,
    committed=None,
    images=4,
    train_images=2,
    inputs={"data/catalog": "1.dir"},
    params={"learning_rate": 5e-6},
    training={"parameters": {"total": 9, "trainable": 2}},
    measured={},
    attributes=["Canvas", "Suede"],
    objects=["Boots", "Sandals"],
    pairs=["Canvas_Boots", "Suede_Sandals"],
)


class Photo(NamedTuple):
    """A photo with its label, and what stages made of it.

    Attributes:
        name: image_id; its bytes say nothing else.
        attribute, object: its label, or None.
        split: train, val or test, of captions and pairs.
        probability: of the pair that Troika names.
        color: the word by CLIP, or None below the threshold.
        lead: of that word.
    """

    name: str
    attribute: str | None = "Canvas"
    object: str | None = "Boots"
    split: str = "train"
    probability: float = 0.9
    color: str | None = "red"
    lead: float = 0.5


def write_tables(
    root: Path, photos: Sequence[Photo], words: Sequence[str] = ("red", "blue")
) -> None:
    """``data/`` as the stages from ``download`` to ``enhance`` write it."""
    data = root / "data"
    ids = [photo.name for photo in photos]
    columns = {name: pa.nulls(len(ids), field.type) for name, field in _fields(CATALOG)}
    columns |= {
        "image_id": pa.array(ids, pa.string()),
        "product_id": pa.array(ids, pa.string()),
        "content": pa.array([content_of(name) for name in ids], CATALOG.field("content").type),
        "image": pa.array(
            [{"bytes": name.encode(), "path": name} for name in ids], CATALOG.field("image").type
        ),
        "attribute": pa.array([photo.attribute for photo in photos], pa.string()),
        "object": pa.array([photo.object for photo in photos], pa.string()),
    }
    write_table(pa.table(columns, schema=CATALOG), data / "catalog" / "part-00000.parquet", CATALOG)
    # Joined on image_id: no other table is in the catalog's order.
    turned = list(reversed(photos))
    splits = [
        {
            **{"image_id": p.name, "product_id": p.name, "caption_split": p.split},
            **{"attribute": p.attribute, "object": p.object, "pair_split": p.split},
        }
        for p in turned
    ]
    write_table(pa.Table.from_pylist(splits, SPLITS), data / "splits.parquet", SPLITS)
    labels = sorted({(p.attribute, p.object) for p in photos if p.attribute and p.object})
    pairs = [
        {"attribute": a, "object": o, "split": "train", "seen": True, "images": 1}
        for a, o in labels
    ]
    write_table(pa.Table.from_pylist(pairs, PAIRS), data / "pairs.parquet", PAIRS)
    named = [
        {
            **{"image_id": p.name, "attribute": "Canvas", "object": "Boots"},
            **{"original_prompt": "A photo of Canvas_Boots", "probability": p.probability},
            **{"top_attributes": [], "top_objects": [], "top_probabilities": []},
        }
        for p in turned
    ]
    original = pa.Table.from_pylist(named, ORIGINAL_PROMPTS)
    write_table(original, data / "prompts" / "original.parquet", ORIGINAL_PROMPTS)
    schema = enhanced_prompts_schema(("color",))
    enhanced = [
        {
            **{"image_id": p.name, "attribute": "Canvas", "object": "Boots"},
            **{"original_prompt": "", "enhanced_prompt": "", "color": p.color},
            **{"color_best": p.color or "red", "color_score": 0.3, "color_margin": p.lead},
            **{"color_scores": [0.3], "color_pixel": None},
        }
        for p in turned
    ]
    table = pa.Table.from_pylist(enhanced, schema)
    write_table(table, data / "prompts" / "enhanced.parquet", schema)
    vectors = word_embeddings(len(words))
    rows = [
        {"group": "color", "word": word, "embedding": np.eye(len(words))[place].tolist()}
        for place, word in enumerate(words)
    ]
    write_table(pa.Table.from_pylist(rows, vectors), data / "embeddings" / "words.parquet", vectors)


def content_of(name: str) -> bytes:
    """The content of a photo."""
    return content_digest(name.encode())


def write_kept(folder: Path, origin: Origin, contents: Mapping[str, bool]) -> None:
    """A kept model of nothing but its origin."""
    folder.mkdir(parents=True)
    write_origin(origin, folder)
    rows = sorted((content_of(name), trained) for name, trained in contents.items())
    columns = zip(*rows, strict=True) if rows else ([], [])
    write_table(pa.table(list(columns), schema=CONTENTS), folder / CONTENTS_FILE, CONTENTS)


def _fields(schema: pa.Schema) -> list[tuple[str, pa.Field]]:
    return [(field.name, field) for field in schema]
