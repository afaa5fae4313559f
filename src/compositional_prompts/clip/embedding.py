"""L2-normalised CLIP vectors of images and of texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.files.tensors.finite_numbers import require_finite_values


def _device(clip: Clip) -> torch.device:
    device: torch.device = next(clip.model.parameters()).device
    return device


@torch.inference_mode()
def embed_images(clip: Clip, pixel_values: Tensor) -> Tensor:
    """Embed preprocessed images ``[n, 3, H, W]``; float32 ``[n, d]`` on the CPU, unit length."""
    device = _device(clip)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        features = clip.model.encode_image(pixel_values.to(device))
    return F.normalize(features.float(), dim=-1).cpu()


@torch.inference_mode()
def embed_texts(clip: Clip, texts: Sequence[str], batch_size: int) -> Tensor:
    """Embed texts, cut at the model's context length; float32 ``[n, d]`` on the CPU, unit length.

    No text gives an empty ``[0, d]`` tensor.

    Raises:
        ValueError: a number is not finite.
    """
    device = _device(clip)
    batches = [
        clip.model.encode_text(clip.tokenizer(list(texts[start : start + batch_size])).to(device))
        for start in range(0, len(texts), batch_size)
    ]
    require_finite_values("CLIP's vectors of texts", *batches)
    if not batches:
        dimension = clip.model.encode_text(clip.tokenizer([""]).to(device)).shape[-1]
        return torch.empty(0, dimension)
    return F.normalize(torch.cat(batches).float(), dim=-1).cpu()
