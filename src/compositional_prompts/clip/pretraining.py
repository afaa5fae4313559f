"""A micro CLIP trained from scratch, for machines that cannot reach the hub.

Same classes and files as the published models, only the configuration differs (Radford et al.,
2021: symmetric cross-entropy over the cosine similarities of a batch).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from open_clip.transform import merge_preprocess_dict
from torch import Tensor, nn

from compositional_prompts.devices import seed_everything
from compositional_prompts.stage import progress

logger = logging.getLogger(__name__)

MICRO_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 112,
        "patch_size": 14,
        "width": 128,
        "layers": 4,
        "head_width": 32,
        # BLIP-2's vision tower has no norm before its first block: without one here, the micro
        # BLIP-2 can take these weights over as they are.
        "no_ln_pre": True,
    },
    "text_cfg": {"context_length": 32, "width": 128, "heads": 4, "layers": 3},
}
"""The micro CLIP's ``model_cfg``; the text side keeps CLIP's own vocabulary of 49,408 tokens."""

MICRO_PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    # Whole products, squeezed, rather than their middle: a centre crop would cut off toe and heel.
    "resize_mode": "squash",
}

WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.05
MAX_LOGIT_SCALE = math.log(100)  # as CLIP: larger scales are unstable


def cosine_with_warmup(step: int, steps: int) -> float:
    """Multiplier of the learning rate: linear up over the first tenth, then a cosine to zero."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def micro_clip() -> nn.Module:
    """A randomly initialised micro CLIP with its preprocessing attached."""
    model = open_clip.CLIP(
        embed_dim=MICRO_CONFIG["embed_dim"],
        vision_cfg=MICRO_CONFIG["vision_cfg"],
        text_cfg=MICRO_CONFIG["text_cfg"],
    )
    settings = merge_preprocess_dict({"size": MICRO_CONFIG["vision_cfg"]["image_size"]}, {})
    open_clip.model.set_model_preprocess_cfg(model, {**settings, **MICRO_PREPROCESS})
    return model


def micro_tokenizer() -> Any:
    """CLIP's byte-pair tokenizer at the micro CLIP's context length."""
    return open_clip.SimpleTokenizer(context_length=MICRO_CONFIG["text_cfg"]["context_length"])


def normalised(images: Tensor) -> Tensor:
    """uint8 ``[n, 3, H, W]`` to the micro models' pixel_values, float32 in -1..1."""
    return images.float().div_(127.5).sub_(1)


def pretrain_clip(
    images: Tensor,
    captions: Sequence[str],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
) -> nn.Module:
    """Train a micro CLIP from scratch on image-caption pairs.

    Args:
        images: uint8 ``[n, 3, 112, 112]``.
        captions: ``n`` texts.
        epochs: passes over the pairs.
        batch_size: pairs that are told apart in one step; the rest of the last one is left out.
        learning_rate: peak of the schedule of AdamW.
        seed: of initialisation, order and flips.
        device: where to train.

    Returns:
        The trained model in evaluation mode, on the CPU.

    Raises:
        ValueError: there are fewer pairs than one batch.
    """
    if len(captions) < batch_size:
        raise ValueError(
            f"Pretraining has {len(captions)} image-caption pairs, fewer than one batch of "
            f"{batch_size}: lower weights.pretrain.clip_batch or bring more images."
        )
    seed_everything(seed)
    model = micro_clip().to(device).train()
    tokens = micro_tokenizer()(list(captions))
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    steps_per_epoch = len(captions) // batch_size
    steps = epochs * steps_per_epoch
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: cosine_with_warmup(step, steps)
    )
    contrastive = open_clip.ClipLoss()
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.randperm(len(captions), generator=generator)
        total = 0.0
        starts = range(0, steps_per_epoch * batch_size, batch_size)
        for start in progress(starts, f"CLIP epoch {epoch + 1}/{epochs}"):
            chosen = order[start : start + batch_size]
            batch = normalised(images[chosen])
            flipped = torch.rand(len(chosen), generator=generator) < 0.5
            batch[flipped] = batch[flipped].flip(-1)
            features = model(batch.to(device), tokens[chosen].to(device))
            loss = contrastive(*features[:2], features[2])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)  # type: ignore[operator]
            total += loss.item()
        logger.info(
            "CLIP epoch %d of %d: loss %.3f", epoch + 1, epochs, total / max(1, steps_per_epoch)
        )
    return model.eval().cpu()
