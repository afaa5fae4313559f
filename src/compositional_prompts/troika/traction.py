"""Cross-Modal Traction: text features drawn towards the patches of one image.

Source: Troika (CVPR 2024), section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_WIDTH = 64
"""Width of an attention head; narrower features have one head."""

MLP_RATIO = 4
"""Width of a layer's MLP over that of its features."""

QUICK_GELU = 1.702
"""The factor of QuickGELU."""

INITIAL_GAIN = 0.1
"""Where the learnable vector lambda starts."""


def attention_heads(dimension: int) -> int:
    """``dimension / 64`` heads, or the nearest smaller number that divides ``dimension``."""
    most = max(1, dimension // HEAD_WIDTH)
    return next(heads for heads in range(most, 0, -1) if dimension % heads == 0)


class QuickGeluMlp(nn.Module):
    """Linear, QuickGELU (``x * sigmoid(1.702 x)``, whatever the CLIP itself has), dropout, linear.

    Shapes: ``[..., d]`` to ``[..., d]``.
    """

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(dimension, dimension * MLP_RATIO)
        self.contract = nn.Linear(dimension * MLP_RATIO, dimension)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        # QuickGELU(x) is silu(1.702 x) / 1.702. With the factors in the small weights, the widest
        # activation of the model is passed over once in the place of three times, five backwards.
        expand, contract = self.expand, self.contract
        scaled = F.linear(x, QUICK_GELU * expand.weight, QUICK_GELU * expand.bias)
        hidden = self.dropout(F.silu(scaled))
        return F.linear(hidden, contract.weight / QUICK_GELU, contract.bias)


class CrossAttentionLayer(nn.Module):
    """``q += attention(q, patches)``, then ``q += mlp(norm(q))``; only the MLP is pre-normed."""

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.heads = attention_heads(dimension)
        self.query = nn.Linear(dimension, dimension, bias=False)
        self.key = nn.Linear(dimension, dimension, bias=False)
        self.value = nn.Linear(dimension, dimension, bias=False)
        self.output = nn.Linear(dimension, dimension)
        self.norm = nn.LayerNorm(dimension)
        self.mlp = QuickGeluMlp(dimension, dropout)
        self.dropout = nn.Dropout(dropout)

    def _split(self, x: Tensor) -> Tensor:
        batch, rows, dimension = x.shape
        return x.reshape(batch, rows, self.heads, dimension // self.heads).transpose(1, 2)

    def forward(self, texts: Tensor, patches: Tensor) -> Tensor:
        """``[batch or 1, texts, d]`` and ``[batch, tokens, d]`` to ``[batch, texts, d]``."""
        batch = patches.shape[0]
        attended = F.scaled_dot_product_attention(
            self._split(self.query(texts)).expand(batch, -1, -1, -1),
            self._split(self.key(patches)),
            self._split(self.value(patches)),
        )
        texts = texts + self.dropout(self.output(attended.transpose(1, 2).flatten(-2)))
        update: Tensor = self.dropout(self.mlp(self.norm(texts)))
        return texts + update


class CrossModalTraction(nn.Module):
    """Cross-attention layers from text features to patches, weighted by the vector lambda."""

    def __init__(self, dimension: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttentionLayer(dimension, dropout) for _ in range(layers))
        self.gain = nn.Parameter(torch.full((dimension,), INITIAL_GAIN))

    def forward(self, texts: Tensor, patches: Tensor) -> Tensor:
        """Text features for each image of a batch.

        Args:
            texts: unit-length text features, ``[texts, d]``.
            patches: layer-normed tokens of the images, class token included,
                ``[batch, tokens, d]``.

        Returns:
            Unit-length features ``[batch, texts, d]``.
        """
        # One row stands for the whole batch until the first attention tells the images apart.
        drawn = texts.unsqueeze(0)
        for layer in self.layers:
            drawn = layer(drawn, patches)
        return F.normalize(texts + self.gain * drawn, dim=-1)
