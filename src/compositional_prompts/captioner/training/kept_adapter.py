"""A kept adapter in the place of what the stage ``finetune`` would train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import Blip2Config, Blip2ForConditionalGeneration

from compositional_prompts.captioner.decoding.grammar_file import read_grammar
from compositional_prompts.captioner.model.lora import CONFIG_FILE
from compositional_prompts.files.digests import folder_digest
from compositional_prompts.files.records.json_objects import read_json_object
from compositional_prompts.results.kept_models import (
    KeptModelError,
    copy_model,
    kept_metrics,
    kept_model,
)

WEIGHTS_FILE = "adapter_model.safetensors"
BASE_CONFIG = "config.json"


def keep_adapter(source: Path, blip2: Path, adapter: Path) -> dict[str, Any]:
    """Write the kept adapter, with the grammar that it learnt, as the stage's output.

    Args:
        source: the folder of the kept adapter.
        blip2: the BLIP-2 at hand.
        adapter: where to; replaced if it is there.

    Returns:
        Metrics: its origin, and no losses.

    Raises:
        KeptModelError: there is no kept adapter, or it is one of another BLIP-2.
        DamagedOutputError: its grammar cannot be read.
    """
    folder, origin = kept_model(source, "finetune")
    _require_fit(folder, blip2)
    if origin.base is not None and origin.base != folder_digest(blip2):
        raise KeptModelError(
            f"{folder} was trained on another BLIP-2 than {blip2}, of the same shape but with "
            "other weights or settings: set weights.blip2 to that one, or finetune.mode to train.",
            folder,
            blip2,
        )
    read_grammar(folder)
    copy_model(folder, adapter)
    metrics = kept_metrics(origin)
    for name in ("val_images", "trainable_percent"):
        if name in origin.training:
            metrics[name] = origin.training[name]
    return metrics


def _require_fit(folder: Path, blip2: Path) -> None:
    """Compare the adapter's tensors with the modules that they adapt, by their shapes."""
    weights = folder / WEIGHTS_FILE
    missing = [path for path in (folder / CONFIG_FILE, weights) if not path.is_file()]
    if missing:
        raise KeptModelError(f"{missing[0]} is missing: fetch it again with `dvc pull`.", folder)
    config = Blip2Config.from_dict(read_json_object(blip2 / BASE_CONFIG))
    with torch.device("meta"):
        shapes = {
            name: tuple(parameter.shape)
            for name, parameter in Blip2ForConditionalGeneration(config).named_parameters()
        }
    for name, shape in _adapter_shapes(weights):
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        module, _, part = plain.partition(".lora_")
        adapted = f"{module}.weight" if part else module
        expected = shapes.get(adapted)
        if expected is None or not _fits(part, shape, expected):
            there = "it has none" if expected is None else f"it is {list(expected)} there"
            raise KeptModelError(
                f"{folder} is an adapter of another BLIP-2 than {blip2}: its tensor {name} is "
                f"{list(shape)}, for {adapted}, and {there}. Set weights.blip2 to the model that "
                "it was trained on, or finetune.mode to train.",
                folder,
                blip2,
            )


def _fits(part: str, shape: tuple[int, ...], adapted: tuple[int, ...]) -> bool:
    """Whether a tensor of PEFT's may stand beside the weight ``[out, in, ...]`` that it adapts.

    A is ``[rank, in]``, B ``[out, rank]``, DoRA's magnitudes are ``[out]``; an embedding's weight
    lies the other way round.
    """
    if not part:
        return shape == adapted
    turned = part.startswith("embedding")
    inward = part.removeprefix("embedding_").startswith("A")
    return shape[inward] == adapted[inward != turned]


def _adapter_shapes(weights: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    try:
        with safe_open(weights, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                yield name, tuple(tensors.get_slice(name).get_shape())
    except SafetensorError as error:
        raise KeptModelError(
            f"{weights} is not a whole safetensors file ({error}): fetch it again with `dvc pull`.",
            weights,
        ) from error
