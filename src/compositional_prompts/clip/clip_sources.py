"""A published or a local open_clip model, written in the layout that every stage reads."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from compositional_prompts.clip.clip_names import HUB_PREFIX, check_clip_name
from compositional_prompts.clip.lean_open_clip import open_clip, provide_towers
from compositional_prompts.clip.open_clip_model import CONFIG_FILE, WEIGHTS_FILE, save_clip
from compositional_prompts.files.hub import fetch_snapshot


def _copy_folder(source: Path, directory: Path) -> None:
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (source / name).is_file()]
    if missing:
        pickles = sorted(file.name for file in source.glob("*.bin"))
        beside = f" ({pickles[0]} is a pickle: those are never read)" if pickles else ""
        raise FileNotFoundError(
            f"{source} is not an open_clip model folder: {missing[0]} is missing{beside}. It is "
            "written by open_clip's save_for_hf(..., safe_serialization=True)."
        )
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in (".json", ".safetensors", ".txt", ".model"):
            shutil.copyfile(file, directory / file.name)


def _configuration(name: str) -> dict[str, Any]:
    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(
            f"weights: open_clip has no model named {name!r}; "
            "open_clip.list_models() gives the names, or use hf-hub:ORGANISATION/REPOSITORY."
        )
    return deepcopy(config)


def _published_weights(name: str, pretrained: str, revision: str) -> dict[str, Any]:
    """What open_clip takes for the weights of a tag at a revision of their repository."""
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    repository, _, file = tag.get("hf_hub", "").rpartition("/")
    if not repository:
        raise ValueError(
            f"weights: {pretrained!r} of {name!r} is not a repository of the hub, so it has no "
            f"`revision`, found {revision!r}: set it to null."
        )
    weights = Path(file).with_suffix(".safetensors").name if file else WEIGHTS_FILE
    folder = fetch_snapshot(repository, revision, (weights,), "weights")
    if not (folder / weights).is_file():
        raise FileNotFoundError(f"weights: {repository} has no {weights} at {revision!r}.")
    return {"pretrained": str(folder / weights), "force_preprocess_cfg": tag}


def fetch_clip(
    source: Literal["hub", "path"],
    name: str,
    pretrained: str | None,
    revision: str | None,
    directory: Path,
) -> None:
    """Bring a CLIP into the existing ``directory``.

    Args:
        source: ``hub`` downloads (or takes from the local cache), ``path`` copies a folder.
        name: an open_clip model name or ``hf-hub:ORGANISATION/REPOSITORY``; or the folder.
        pretrained: open_clip's tag of the weights, for a model name without prefix.
        revision: commit, branch or tag of the repository on the hub; null is its newest.
        directory: where to write.

    Raises:
        FileNotFoundError: the folder is no open_clip model, or the hub is out of reach and the
            repository not in the local cache; or it has pickles only.
        ValueError: the name is unknown; the weights tag is missing, a file, or without revisions;
            or the weights were trained with another activation than the model has (cosines would
            be off by about 0.05).
        RuntimeError: the weights could not be downloaded.
    """
    if source == "path":
        _copy_folder(Path(name), directory)
        return
    check_clip_name(name, pretrained)
    if name.startswith(HUB_PREFIX):
        patterns = (WEIGHTS_FILE, "*.json", "*.txt", "*.model")
        repository = name.removeprefix(HUB_PREFIX)
        _copy_folder(fetch_snapshot(repository, revision, patterns, "weights"), directory)
        return
    assert pretrained is not None  # check_clip_name sees to it
    config = _configuration(name)
    if Path(pretrained).is_file():
        # open_clip would take the file and could not tell which activation it was trained with.
        raise ValueError(
            f"weights: `pretrained` is open_clip's tag of published weights, found the file "
            f"{pretrained}: write a folder with open_clip's save_for_hf(..., "
            "safe_serialization=True) and name that with source: path."
        )
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if tag and tag.get("quick_gelu", False) != config.get("quick_gelu", False):
        other = f"{name}-quickgelu" if tag.get("quick_gelu") else name.removesuffix("-quickgelu")
        raise ValueError(
            f"weights: the activation of {name!r} is not that of its weights {pretrained!r}: "
            f"use {other}."
        )
    weights = (
        {"pretrained": pretrained}
        if revision is None
        else _published_weights(name, pretrained, revision)
    )
    provide_towers(config)
    save_clip(open_clip.create_model(name, **weights), config, directory)
