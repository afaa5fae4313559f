"""A new group of attributes with truth, added as the document says: by YAML and CSV alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from compositional_miniature import photo
from stage_script import run_stage

from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.clip.vector_tables import image_embeddings, word_embeddings
from compositional_prompts.files.tables import write_table
from compositional_prompts.project.whole_params import read_all_params
from compositional_prompts.prompt.pair import original_prompt
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "docs/architecture.md").read_text().split("### A group of attributes\n")[1]
CHANGE, LABELS = (
    re.search(rf"^```{kind}\n(.+?)^```", RECIPE, re.DOTALL | re.MULTILINE)[1]  # type: ignore[index]
    for kind in ("yaml", "csv")
)
WIDTH = 8
BETWEEN = {
    "truth": ("own", "labels", "catalog", "truth", "metrics"),
    "split": ("catalog", "listed-pairs", "download", "splits", "pairs", "corpus", "metrics"),
    "colors": ("catalog", "truth", "colors"),
    "word_scorer": (
        *("catalog", "splits", "truth", "vectors", "colors", "words", "clip"),
        *("scorer", "metrics"),
    ),
    "enhance": (
        *("prompts", "splits", "truth", "vectors", "colors", "scorer"),
        *("enhanced", "metrics", "confusion", "reliability", "risk-coverage"),
    ),
}
"""Stages that run on the photos, and their arguments."""


def unit(count: int) -> list[list[float]]:
    vectors = np.random.default_rng(count).normal(size=(count, WIDTH)).astype(np.float32)
    rows: list[list[float]] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()
    return rows


def test_a_group_needs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    change = yaml.safe_load(CHANGE)
    document["clip_embed"] |= change["clip_embed"]
    section = document["download"]["folder"] | change["download"].pop("folder")
    document["download"] |= change["download"] | {"folder": section}
    document["base"]["workers"] = 1
    Path("params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    Path("photos.csv").write_text(LABELS)
    Path("photos").mkdir()
    for number in (1, 2, 3):
        Path(f"photos/{number}.jpg").write_bytes(photo(number))
    outputs = ("catalog", "truth", "rejected", "listed-pairs", "metrics")
    made = {name: tmp_path / name for name in outputs}
    run_stage(monkeypatch, "download", made | {"metrics": tmp_path / "download"})

    ids = read_labels(Path("catalog"))["image_id"].to_pylist()
    write_prompts_and_vectors(ids)
    (tmp_path / "labels").mkdir()
    paths = {
        "own": "truth",
        "truth": "all-truth",
        "vectors": "embeddings/images",
        "words": "embeddings/words.parquet",
        "reliability": "plots/reliability",
        "risk-coverage": "plots/risk-coverage",
    }
    for stage, names in BETWEEN.items():
        run_stage(monkeypatch, stage, {name: tmp_path / paths.get(name, name) for name in names})
    measured = json.loads(Path("metrics").read_text())
    assert list(measured) == ["color", "closure"]
    assert measured["closure"]["images_with_truth"] == 2
    assert measured["closure"]["accuracy"] is not None
    table = pq.read_table("enhanced")
    assert all(text.endswith(" closure") for text in table["enhanced_prompt"].to_pylist())


def write_prompts_and_vectors(ids: list[str]) -> None:
    """What the stages between write, of random vectors."""
    prompt = {
        "attribute": "Canvas",
        "object": "Boots",
        "original_prompt": original_prompt("Canvas", "Boots"),
        "probability": 1.0,
        "top_attributes": ["Canvas"],
        "top_objects": ["Boots"],
        "top_probabilities": [1.0],
    }
    rows = [{"image_id": name} | prompt for name in ids]
    write_table(pa.Table.from_pylist(rows, ORIGINAL_PROMPTS), Path("prompts"), ORIGINAL_PROMPTS)
    groups = read_all_params(Path("params.yaml")).clip_embed.vocabulary
    words = [(group, word) for group, some in groups.items() for word in some]
    tables = {
        "images/part-00000": pa.table([ids, unit(len(ids))], schema=image_embeddings(WIDTH)),
        "words": pa.table([*zip(*words, strict=True), unit(len(words))], word_embeddings(WIDTH)),
    }
    for name, table in tables.items():
        write_table(table, Path(f"embeddings/{name}.parquet"), table.schema)
