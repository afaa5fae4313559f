"""What decides the output of a CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compositional_prompts.clip.catalog_vectors import ClipVectors
from compositional_prompts.clip.clip_digest import image_digest, tower_libraries, whole_digest
from compositional_prompts.clip.open_clip_model import CONFIG_FILE, WEIGHTS_FILE


def write_clip(folder: Path, model: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": model}))
    (folder / WEIGHTS_FILE).write_bytes(b"weights")
    return folder


def test_a_tokenizer_decides_texts_alone(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip", {})
    image, whole = image_digest(clip), whole_digest(clip)
    (clip / "tokenizer.json").write_text("{}")
    assert image_digest(clip) == image
    assert whole_digest(clip) != whole
    (clip / WEIGHTS_FILE).write_bytes(b"others")
    assert image_digest(clip) != image


@pytest.mark.parametrize(
    ("model", "libraries"),
    [
        ({}, []),
        ({"vision_cfg": {"layers": 2}, "text_cfg": {"layers": 2}}, []),
        ({"vision_cfg": {"timm_model_name": "vit"}, "text_cfg": {}}, ["timm"]),
        ({"text_cfg": {"hf_model_name": "xlm"}}, ["transformers"]),
        ({"text_cfg": {"hf_tokenizer_name": "siglip"}}, ["transformers"]),
    ],
)
def test_libraries_of_towers_decide_too(
    model: dict[str, Any], libraries: list[str], tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip", model)
    assert tower_libraries(clip) == libraries
    described = ClipVectors(clip, "cpu", 32).description()["libraries"]
    assert set(libraries) <= set(described)
