"""A published or a local BLIP-2, copied file by file into the folder that every stage reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Configuration, weights and tokenizer; never a pickle."""


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
        FileNotFoundError: the folder has no configuration or no safetensors weights, or the hub
            is out of reach and the model not in the local cache.
    """
    if source == "hub":
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
        except LocalEntryNotFoundError as error:
            pin = f" --revision {revision}" if revision else ""
            raise FileNotFoundError(
                f"weights.blip2: {name} is neither within reach nor in the local cache. On a "
                f"machine with a connection run `hf download {name}{pin}` and bring its cache, or "
                "set weights.blip2.source to path."
            ) from error
    else:
        folder = Path(name)
    files = [file for pattern in PATTERNS for file in sorted(folder.glob(pattern))]
    for need, suffix in (("config.json", "config.json"), ("weights", ".safetensors")):
        if not any(file.name.endswith(suffix) for file in files):
            raise FileNotFoundError(
                f"{folder} is not a BLIP-2 in transformers' layout: no {need} ({suffix}) in it."
            )
    for file in files:
        shutil.copyfile(file, directory / file.name)
