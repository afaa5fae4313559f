"""A project's tables as ``export-data`` reads them, without any model, and the rows that they are.

The expected rows are written down by hand but for confidences, which are computed again in float64.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.split_tables import PAIRS_OF_OBJECTS, SPLITS
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.enhancement.calibration.temperature import Temperature
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.enhancement.word_scorer import GroupScorer, WordScorer
from compositional_prompts.files.tables import write_table
from compositional_prompts.scoring.recommended_texts import RECOMMENDED
from compositional_prompts.troika.original_prompts import PROMPTS_OF_OBJECTS

ROOT = Path(__file__).parents[1]
WORDS = {"color": ["black", "white", "red"], "material": ["leather", "faux fur"]}
TEMPERATURE = 0.05
"""Of the colours, which are calibrated; materials are not."""


@dataclass(frozen=True)
class Photo:
    """A photo, its predicted pair, words with their cosines, and its texts.

    Attributes:
        caption: of the fine-tuned BLIP-2; None where there is none.
        recommended: whether that is the recommended text.
        said: what the caption says, attribute, object, color and material; None where it is off the
            template.
    """

    image_id: str
    split: str = "train"
    kind: str = "PNG"
    title: str | None = None
    label: tuple[str | None, str] | None = None
    truth: tuple[tuple[str, str], ...] = ()
    pair: tuple[str | None, str] = ("Canvas", "Boots")
    words: tuple[str | None, str | None] = ("white", "leather")
    caption: str | None = None
    recommended: bool = False
    said: tuple[str | None, str | None, str | None, str | None] | None = None

    @property
    def enhanced(self) -> str:
        color, material = (word or "an unspecified" for word in self.words)
        return f"{self.original} with {color} color and {material} material"

    @property
    def original(self) -> str:
        return f"A photo of {'_'.join(filter(None, self.pair))}"


PHOTOS = [
    Photo(
        "shoes/001.png",
        title="Boots, white",
        label=("Canvas", "Boots"),
        truth=(("color", "white"), ("material", "leather"), ("material", "faux fur")),
    ),
    Photo(
        "=1+1",
        caption="A photo of Faux_Fur_Boots with red color and faux fur material",
        recommended=True,
        said=("Faux_Fur", "Boots", "red", "faux fur"),
    ),
    Photo('../up/\N{GREEK SMALL LETTER OMEGA} "x",y.jpg', split="val", kind="JPEG", title="-5 %"),
    Photo(
        "UP",
        split="test",
        kind="WEBP",
        pair=("Suede", "Boots"),
        words=(None, "faux fur"),
        caption="some boots",
    ),
    Photo("up", split="test", words=("black", None), title="two\nlines"),
]


def picture(number: int, kind: str) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def cosines(number: int, group: str) -> list[float]:
    random = np.random.default_rng([number, len(group)])
    return random.normal(0.2, 0.02, len(WORDS[group])).astype(np.float32).tolist()


def confidence(number: int, group: str, word: str | None) -> float | None:
    """Of a word, by the softmax over the group in float64."""
    if word is None:
        return None
    temperature = TEMPERATURE if group == "color" else 0.01
    scores = [math.exp(score / temperature) for score in cosines(number, group)]
    return scores[WORDS[group].index(word)] / math.fsum(scores)


def expected_row(number: int, photo: Photo, captions: str) -> dict[str, Any]:
    """A row of an export; confidences not rounded."""
    own = photo.caption is not None and (captions == "finetuned" or photo.recommended)
    own = (own or captions == "finetuned") and captions != "enhanced"
    said = photo.said if own and photo.said is not None else (*photo.pair, *photo.words)
    second = ("Faux_Fur", "Boots") if photo.pair[0] else (None, "Sandals")
    pair = {photo.pair: 0.75, second: 0.125}.get(said[:2])
    sure = {"pair": pair} | {
        group: confidence(number, group, word)
        for group, word in zip(WORDS, said[2:], strict=True)
        if word is not None
    }
    text = photo.caption if own else photo.enhanced
    truth = {
        group: ";".join(word for one, word in photo.truth if one == group) or None
        for group in WORDS
    }
    return {
        "image_id": photo.image_id,
        "product_id": f"@{number}",
        "split": photo.split,
        "title": photo.title,
        "caption": f"readable {number}" if captions == "readable" else text,
        "caption_source": "caption" if own else "enhanced",
        "confidence": None if None in sure.values() else min(sure.values()),
        "attribute": said[0],
        "object": said[1],
        "pair_confidence": pair,
        "color": said[2],
        "color_confidence": sure.get("color"),
        "color_truth": truth["color"],
        "material": said[3],
        "material_confidence": sure.get("material"),
        "material_truth": truth["material"],
        "label_attribute": None if photo.label is None else photo.label[0],
        "label_object": None if photo.label is None else photo.label[1],
        "original_prompt": photo.original,
        "enhanced_prompt": photo.enhanced,
    }


def expected_rows(
    captions: str = "recommended", photos: Sequence[Photo] = PHOTOS
) -> dict[str, dict[str, Any]]:
    """By image_id, rows with a caption."""
    rows = [expected_row(number, photo, captions) for number, photo in enumerate(photos)]
    return {row["image_id"]: row for row in rows if row["caption"] is not None}


def write_exported_project(root: Path, photos: Sequence[Photo] = PHOTOS) -> None:
    """Tables in the catalog's order, but for one, with ``dvc.lock`` and what was measured."""
    _write_pipeline(root / "dvc.yaml")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    groups = [{"name": group, "words": words} for group, words in WORDS.items()]
    params["clip_embed"]["attributes"] = groups
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    data = root / "data"
    with open_shards(data / "catalog", 1) as shards:
        for number, photo in enumerate(photos):
            encoded = picture(number, photo.kind)
            label = photo.label or (None, None)
            row = CatalogRow(
                photo.image_id, f"@{number}", encoded, f"{number}", *label, photo.title
            )
            shards.write(row)
    _write(data / "splits.parquet", SPLITS, [
        {"image_id": photo.image_id, "product_id": f"@{number}", "caption_split": photo.split}
        for number, photo in enumerate(photos)
    ])  # fmt: skip
    _write(data / "truth.parquet", TRUTH, [
        {"image_id": photo.image_id, "group": group, "word": word}
        for photo in photos
        for group, word in photo.truth
    ])  # fmt: skip
    alone = photos[0].pair[0] is None
    pairs = [("Canvas", "Boots"), ("Faux_Fur", "Boots"), ("Suede", "Boots")]
    if alone:
        pairs = [(None, "Boots"), (None, "Sandals")]
    _write(data / "pairs.parquet", PAIRS_OF_OBJECTS, [
        {"attribute": one, "object": other, "split": "train", "seen": True, "images": 1}
        for one, other in pairs
    ])  # fmt: skip
    _write(data / "prompts" / "original.parquet", PROMPTS_OF_OBJECTS, [
        {
            "image_id": photo.image_id,
            "attribute": photo.pair[0],
            "object": photo.pair[1],
            "original_prompt": photo.original,
            "probability": 0.75,
            "top_attributes": [photo.pair[0], None if alone else "Faux_Fur"],
            "top_objects": [photo.pair[1], "Sandals" if alone else "Boots"],
            "top_probabilities": [0.75, 0.125],
        }
        for photo in photos
    ])  # fmt: skip
    prompts = [_prompt(number, photo) for number, photo in enumerate(photos)]
    schema = enhanced_prompts_schema(list(WORDS))
    _write(data / "prompts" / "enhanced.parquet", schema, prompts[::-1])  # joined in any order
    _write(data / "recommended.parquet", RECOMMENDED, [
        {
            "image_id": photo.image_id,
            "split": photo.split,
            "original": "x",
            "enhanced": photo.enhanced,
            "caption": photo.caption,
            "recommended": photo.caption if photo.recommended else photo.enhanced,
            "source": "caption" if photo.recommended else "enhanced",
            "readable": f"readable {number}",
        }
        for number, photo in enumerate(photos)
    ])  # fmt: skip
    vectors = {group: np.eye(len(words), 4, dtype=np.float32) for group, words in WORDS.items()}
    WordScorer(
        {
            group: GroupScorer(
                tuple(words),
                "cosine",
                vectors[group],
                calibration=Temperature(TEMPERATURE, 0.0) if group == "color" else None,
            )
            for group, words in WORDS.items()
        }
    ).save(root / "models" / "word_scorer")
    (root / "metrics").mkdir(exist_ok=True)
    shutil.copy(ROOT / "tests" / "example_metrics" / "recommend.json", root / "metrics")
    lock_recommendation(root)


def _write_pipeline(path: Path) -> None:
    """The pipeline without what it says of source files, which is most of what reading it takes."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    for stage in pipeline["stages"].values():
        body = stage.get("do", stage)
        deps = (dep for dep in body.get("deps", ()) if not dep.startswith(("src/", "stages/")))
        body["deps"] = list(deps)
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False))


def lock_recommendation(root: Path) -> None:
    """``dvc.lock`` as after a run of the stages ``enhance`` and ``recommend``."""

    def entry(name: str) -> dict[str, str]:
        return {"path": name, "md5": hashlib.md5((root / name).read_bytes()).hexdigest()}

    prompts = entry("data/prompts/enhanced.parquet")
    outs = [entry("data/recommended.parquet"), entry("metrics/recommend.json")]
    stages = {
        "enhance": {"cmd": "x", "outs": [prompts]},
        "recommend": {"cmd": "x", "deps": [prompts], "outs": outs},
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def _prompt(number: int, photo: Photo) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_id": photo.image_id,
        "attribute": photo.pair[0],
        "object": photo.pair[1],
        "original_prompt": photo.original,
        "enhanced_prompt": photo.enhanced,
    }
    for (group, words), word in zip(WORDS.items(), photo.words, strict=True):
        row |= {
            group: word,
            f"{group}_best": word or words[0],
            f"{group}_score": 0.2,
            f"{group}_margin": 0.0,
            f"{group}_scores": cosines(number, group),
        }
    return row


def _write(path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist(rows, schema), path, schema)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
