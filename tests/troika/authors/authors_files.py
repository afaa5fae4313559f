"""A small CLIP as the authors' is, and a state dict as their code saves it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import torch
from torch import Tensor

from compositional_prompts.catalog.splitting.split_tables import PAIRS
from compositional_prompts.clip.open_clip_model import Clip, save_clip
from compositional_prompts.files.tables import write_table

State = dict[str, Tensor]

# Two heads of 64 in the vision tower and in the traction, one in the text tower.
WIDTH, TEXT_WIDTH, DIMENSION, LAYERS, BOTTLENECK, TRACTION = 128, 64, 128, 2, 5, 3
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": DIMENSION,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 16,
        "layers": LAYERS,
        "width": WIDTH,
        "patch_size": 8,
        "head_width": 64,
    },
    "text_cfg": {
        "context_length": 77,
        "width": TEXT_WIDTH,
        "heads": 1,
        "layers": 2,
        "vocab_size": 49408,
    },
}
PAIR_ROWS = [
    ("Wool", "Slippers", True, "train"),
    ("Canvas", "Shoes.Flats", True, "train"),
    ("Canvas", "Boots.Mid-Calf", False, "test"),
    ("Faux.Leather", "Slippers", True, "train"),
]
# How the authors' data set sorts what the files list.
ATTRIBUTES = ["Canvas", "Faux.Leather", "Wool"]
OBJECTS = ["Boots.Mid-Calf", "Shoes.Flats", "Slippers"]
AUTHORS_PAIRS = np.array([[2, 2], [0, 1], [0, 0], [1, 2]])


def build_clip(config: dict[str, Any]) -> Any:
    torch.manual_seed(7)
    model = open_clip.CLIP(**deepcopy(config))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 0:
            torch.nn.init.normal_(parameter, std=0.1)
            if "ln_" in name and name.endswith("weight"):
                parameter.data.add_(1)
    model.logit_scale.data.fill_(4.6052)
    return model


def write_clip(directory: Path, config: dict[str, Any]) -> Path:
    model = build_clip(config)
    settings = {
        "size": (16, 16), "mode": "RGB", "mean": (0.5,) * 3, "std": (0.25,) * 3,
        "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
    }  # fmt: skip
    open_clip.set_model_preprocess_cfg(model, settings)
    directory.mkdir(parents=True)
    save_clip(model, config, directory)
    return directory


def trained_shapes(words: int) -> dict[str, list[int]]:
    """The authors' names of what they train, with shapes."""
    d = DIMENSION
    shapes: dict[str, list[int]] = {
        "soft_att_obj": [words, TEXT_WIDTH],
        "comp_ctx_vectors": [3, TEXT_WIDTH],
        "attr_ctx_vectors": [3, TEXT_WIDTH],
        "obj_ctx_vectors": [3, TEXT_WIDTH],
        "lamda": [d],
        "patch_norm.weight": [d],
        "patch_norm.bias": [d],
    }
    for index in range(2 * LAYERS):
        name = f"additional_visual_params.{index}"
        shapes[f"{name}.down_proj.weight"] = [BOTTLENECK, WIDTH]
        shapes[f"{name}.down_proj.bias"] = [BOTTLENECK]
        shapes[f"{name}.up_proj.weight"] = [WIDTH, BOTTLENECK]
        shapes[f"{name}.up_proj.bias"] = [WIDTH]
    for primitive in ("attr", "obj"):
        shapes[f"{primitive}_disentangler.fc1.weight"] = [d, d]
        shapes[f"{primitive}_disentangler.fc1.bias"] = [d]
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{primitive}_disentangler.bn1_fc.{part}"] = [d]
        shapes[f"{primitive}_disentangler.bn1_fc.num_batches_tracked"] = []
    for layer in range(TRACTION):
        for projection in ("q_proj", "k_proj", "v_proj", "proj"):
            shapes[f"cmt.{layer}.cross_attn.{projection}.weight"] = [d, d]
        shapes[f"cmt.{layer}.cross_attn.proj.bias"] = [d]
        shapes[f"cmt.{layer}.norm.weight"] = [d]
        shapes[f"cmt.{layer}.norm.bias"] = [d]
        shapes[f"cmt.{layer}.mlp.0.weight"] = [4 * d, d]
        shapes[f"cmt.{layer}.mlp.0.bias"] = [4 * d]
        shapes[f"cmt.{layer}.mlp.3.weight"] = [d, 4 * d]
        shapes[f"cmt.{layer}.mlp.3.bias"] = [d]
    return shapes


def random_tensor(name: str, shape: list[int], generator: torch.Generator) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(2700)
    noise = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return noise.square() + 0.1
    if len(shape) == 2:
        return noise * 0.3 if name.endswith("vectors") or name == "soft_att_obj" else noise * 0.1
    return 1 + noise * 0.1 if name.endswith("weight") else noise * 0.2


def authors_state(clip: Clip, seed: int, words: int = 6) -> State:
    """A state dict as theirs is: what is trained, CLIP cut to 8 positions, the text tower twice."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: random_tensor(name, shape, generator) for name, shape in trained_shapes(words).items()
    }
    for name, tensor in clip.model.state_dict().items():
        frozen = tensor[:8] if name == "positional_embedding" else tensor
        state[f"clip.{name}"] = frozen
        if not name.startswith("visual.") and name != "logit_scale":
            state[f"text_encoder.{name}"] = frozen
    return state


def write_pairs(path: Path) -> None:
    rows = [
        {"attribute": attribute, "object": name, "seen": seen, "split": split, "images": 1}
        for attribute, name, seen, split in PAIR_ROWS
    ]
    write_table(pa.Table.from_pylist(rows, schema=PAIRS), path, PAIRS)
