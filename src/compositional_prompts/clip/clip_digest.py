"""What decides the output of a CLIP: the content of its folder, and the libraries of its towers."""

from __future__ import annotations

import json
from pathlib import Path

from compositional_prompts.clip.open_clip_model import CONFIG_FILE, WEIGHTS_FILE
from compositional_prompts.files.digests import folder_digest
from compositional_prompts.files.outputs import require_outputs

CLIP_LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "open_clip_torch")
"""Distributions that compute with any CLIP."""


def image_digest(clip: Path) -> str:
    """SHA-256 of the files that decide an image's vector.

    Raises:
        MissingOutputError: one is not there.
    """
    return folder_digest(clip / CONFIG_FILE, clip / WEIGHTS_FILE)


def whole_digest(clip: Path) -> str:
    """SHA-256 of all files of a CLIP, those of a tokenizer among them, which decide texts' vectors.

    Raises:
        MissingOutputError: the folder is not there.
    """
    return folder_digest(clip)


def tower_libraries(clip: Path) -> list[str]:
    """Distributions that compute a tower of this CLIP which is not open_clip's own.

    Raises:
        MissingOutputError: the configuration is not there.
    """
    require_outputs(clip / CONFIG_FILE)
    model = json.loads((clip / CONFIG_FILE).read_text()).get("model_cfg", {})
    towers = {
        "timm": model.get("vision_cfg", {}).get("timm_model_name"),
        "transformers": model.get("text_cfg", {}).get("hf_model_name")
        or model.get("text_cfg", {}).get("hf_tokenizer_name"),
    }
    return [name for name, tower in towers.items() if tower]
