"""Adapters beside the attention and the MLP of every block of a frozen CLIP vision transformer.

Source: Troika (CVPR 2024), implementation details; AdaptFormer (NeurIPS 2022), equation 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compositional_prompts.clip.lean_open_clip import (
    CLIP,
    ResidualAttentionBlock,
    VisionTransformer,
)
from compositional_prompts.compute.training.few_bits_dropout import FewBitsDropout

ADAPTER_SCALE = 0.1
"""Factor on an adapter's output (AdaptFormer's s)."""


class UnsupportedClipError(ValueError):
    """The CLIP model has a part that Troika does not define."""


def require_supported(model: nn.Module) -> None:
    """Check that ``model`` is a CLIP whose two towers Troika can run.

    Raises:
        UnsupportedClipError: naming the part, what was found and what is expected.
    """

    def expect(condition: bool, part: str, expected: str) -> None:
        if not condition:
            raise UnsupportedClipError(
                f"Troika needs a CLIP with {expected}; this one's {part} is different. "
                "Choose an open_clip ViT model such as ViT-B-32 or ViT-L-14 in "
                "weights.troika_clip."
            )

    if not isinstance(model, CLIP):
        raise UnsupportedClipError(
            f"Troika needs an open_clip.CLIP, found {type(model).__name__}: choose an open_clip "
            "ViT model such as ViT-B-32 or ViT-L-14 in weights.troika_clip."
        )
    visual = model.visual
    expect(isinstance(visual, VisionTransformer), "image tower", "a VisionTransformer")
    expect(visual.attn_pool is None and visual.pool_type == "tok", "pooling", "a class token")
    expect(visual.proj is not None, "projection", "a projection of image features")
    for block in visual.transformer.resblocks:
        expect(type(block) is ResidualAttentionBlock, "block", "standard residual blocks")
    expect(visual.transformer.batch_first, "layout", "a batch-first vision transformer")
    expect(model.text_pool_type in ("argmax", "eos"), "text pooling", "end-of-text pooling")
    expect(model.text_projection is not None, "text projection", "a projection of text features")


class Adapter(nn.Module):
    """A bottleneck: ``up(dropout(relu(down(x))))``, zero until trained, not yet scaled.

    Shapes: ``[..., width]`` to ``[..., width]``.
    """

    def __init__(self, width: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.dropout = FewBitsDropout(dropout)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.down(x)))
        update: Tensor = self.up(hidden)
        return update


def self_attention(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """What a frozen ``nn.MultiheadAttention`` computes, ``[batch, tokens, width]`` to the same.

    Without its turns of the layout, which copy every operand.
    """
    batch, tokens, width = x.shape
    heads = attention.num_heads
    joined = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = joined.reshape(batch, tokens, 3, heads, width // heads).unbind(2)
    attended = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    merged = attended.transpose(1, 2).reshape(batch, tokens, width)
    return F.linear(merged, attention.out_proj.weight, attention.out_proj.bias)


class VisionAdapters(nn.Module):
    """Two adapters a block, and the forward pass of a frozen vision transformer with them."""

    def __init__(self, visual: VisionTransformer, bottleneck: int, dropout: float) -> None:
        super().__init__()
        width = visual.transformer.width
        layers = visual.transformer.layers
        self.attention = nn.ModuleList(Adapter(width, bottleneck, dropout) for _ in range(layers))
        self.mlp = nn.ModuleList(Adapter(width, bottleneck, dropout) for _ in range(layers))

    def forward(self, visual: VisionTransformer, pixel_values: Tensor) -> Tensor:
        """Features of all tokens, class token first, ``[batch, 1 + patches, d]``.

        An adapter reads the residual stream before the block's layer norm; the last layer norm and
        the projection are applied to every token.
        """
        x = visual._embeds(pixel_values)
        for block, beside_attention, beside_mlp in zip(
            visual.transformer.resblocks, self.attention, self.mlp, strict=True
        ):
            update = block.ls_1(self_attention(block.attn, block.ln_1(x)))
            x = torch.add(x + update, beside_attention(x), alpha=ADAPTER_SCALE)
            update = block.ls_2(block.mlp(block.ln_2(x)))
            x = torch.add(x + update, beside_mlp(x), alpha=ADAPTER_SCALE)
        features: Tensor = torch.matmul(visual.ln_post(x), visual.proj)
        return features
