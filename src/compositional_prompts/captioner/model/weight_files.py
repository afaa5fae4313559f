"""The files of a checkpoint in transformers' layout, and what their headers say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
"""Says which adapter lies beside it, in PEFT's layout."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: ``model.safetensors``, or the shards of its index.

    Raises:
        FileNotFoundError: there is neither, or the index names a shard that is not there.
        ValueError: the index cannot be read.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        pickles = sorted({path.name for path in folder.glob("pytorch_model*")})
        found = f"only {pickles[0]}, a pickle: those are never read" if pickles else "none"
        raise FileNotFoundError(
            f"{folder} is not a BLIP-2 in transformers' layout: it needs safetensors weights "
            f"({WEIGHTS}, or {INDEX} and its shards); found {found}. Where a repository has "
            "pickles only, take a revision that has safetensors (often refs/pr/N), or convert it: "
            "load it with transformers and save it with save_pretrained."
        )
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of shards with a weight_map: {error}") from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder / missing[0]} is missing, a shard of {len(shards)} that {INDEX} names "
            f"({len(missing)} missing): fetch the model again."
        )
    return [folder / shard for shard in shards]


def tensor_shape(files: Sequence[Path], name: str) -> tuple[int, ...]:
    """Shape of a tensor, from the files' headers; no weights are read.

    Raises:
        ValueError: no file has the tensor, or one is not in safetensors' format.
    """
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                if name in tensors.keys():  # noqa: SIM118 - not a mapping
                    return tuple(tensors.get_slice(name).get_shape())
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    raise ValueError(f"{files[0].parent} has no tensor {name!r}: it is not a BLIP-2.")
