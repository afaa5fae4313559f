"""Any open_clip model from a folder in open_clip's own ``local-dir:`` layout, and back.

The folder holds ``open_clip_config.json`` and ``open_clip_model.safetensors``; models that came
from the hub and models pretrained here look the same afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from compositional_prompts.clip.lean_open_clip import open_clip, provide_towers
from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.tensors.finite_numbers import require_finite_weights

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP in evaluation mode with what its inputs need.

    Attributes:
        model: the open_clip model; no parameter requires a gradient.
        preprocess: an RGB Pillow image to pixel_values, float32 ``[3, image_size, image_size]``.
        tokenizer: texts to token ids, int64 ``[texts, context_length]``.
        image_size: side of the square input, pixels.
        mean: per-channel mean that ``preprocess`` subtracts, for pixels in 0..1.
        std: per-channel standard deviation that it divides by.
    """

    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_clip(directory: Path, device: torch.device) -> Clip:
    """Load the CLIP in ``directory`` onto ``device``, frozen and in evaluation mode.

    Raises:
        MissingOutputError: the configuration or the weights are not there.
        DamagedOutputError: the weights are no whole file, or a number of them is not finite.
        RuntimeError: the weights do not fit the configuration.
    """
    require_outputs(directory / CONFIG_FILE, directory / WEIGHTS_FILE)
    require_finite_weights(directory / WEIGHTS_FILE)
    provide_towers(json.loads((directory / CONFIG_FILE).read_text()).get("model_cfg", {}))
    source = f"local-dir:{directory}"
    model, _, preprocess = open_clip.create_model_and_transforms(source, device=device)
    model.eval().requires_grad_(False)
    settings = model.visual.preprocess_cfg
    size = settings["size"]
    return Clip(
        model=model,
        preprocess=preprocess,
        tokenizer=open_clip.get_tokenizer(source),
        image_size=size[0] if isinstance(size, tuple | list) else size,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )


def save_clip(
    model: Any,
    model_config: Mapping[str, Any],
    directory: Path,
) -> None:
    """Write ``model`` into the existing ``directory`` in the layout that :func:`load_clip` reads.

    Args:
        model: an open_clip model with its ``visual.preprocess_cfg`` set.
        model_config: the ``model_cfg`` it was built from.
    """
    settings = model.visual.preprocess_cfg
    config = {
        "model_cfg": model_config,
        "preprocess_cfg": {
            key: settings[key] for key in ("mean", "std", "interpolation", "resize_mode")
        },
    }
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
