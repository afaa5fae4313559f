"""A published or a local BLIP-2, copied file by file into the folder that every stage reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from compositional_prompts.captioner.model.weight_files import INDEX, WEIGHTS, weight_files
from compositional_prompts.files.hub import fetch_snapshot

DESCRIPTIONS = ("*.json", "*.txt", "*.model")
"""Configuration, processor and tokenizer."""

PATTERNS = (*DESCRIPTIONS, "*.safetensors")
"""What is taken from a repository; never a pickle."""

PICKLE_INDEX = ".bin.index.json"
"""How the index of a checkpoint in pickles ends: without them it is of no use."""


def fetch_captioner(
    source: Literal["hub", "path"], name: str, revision: str | None, directory: Path
) -> None:
    """Bring a BLIP-2 into the existing ``directory``.

    Args:
        source: ``hub`` downloads (or takes from the local cache), ``path`` copies a folder.
        name: a repository such as ``Salesforce/blip2-opt-2.7b``, or the folder.
        revision: commit, branch or tag of the repository.
        directory: where to write.

    Raises:
        FileNotFoundError: the folder or the repository has no configuration or no (or not all)
            safetensors weights, or the hub is out of reach and the model not in the local cache.
        ValueError: the name cannot be that of a repository, or an index of shards is broken.
    """
    if source == "hub":
        folder = fetch_snapshot(name, revision, PATTERNS, "weights.blip2")
    else:
        folder = Path(name)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is not a BLIP-2 in transformers' layout: no config.json in it."
        )
    weights = weight_files(folder)
    described = [file for pattern in DESCRIPTIONS for file in sorted(folder.glob(pattern))]
    if weights[0].name == WEIGHTS:
        described = [file for file in described if file.name != INDEX]
    for file in (*described, *weights):
        if not file.name.endswith(PICKLE_INDEX):
            shutil.copyfile(file, directory / file.name)
