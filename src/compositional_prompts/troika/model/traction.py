"""Cross-Modal Traction: text features drawn towards the patches of one image.

Source: Troika (CVPR 2024), section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

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


class Memory(NamedTuple):
    """What one layer reads of the patches: no text has a part in it.

    Attributes:
        keys: ``[batch, heads, tokens, d / heads]``.
        values: ``[batch, heads, tokens, d / heads]``.
    """

    keys: Tensor
    values: Tensor

    def of_images(self, rows: Tensor) -> Memory:
        """The memory of some images of the batch, int64 ``[images]``."""
        return Memory(self.keys[rows], self.values[rows])


def _added(x: Tensor, update: Tensor) -> Tensor:
    """``x + update``; without gradients in the memory of ``update``, which nobody else holds."""
    if torch.is_grad_enabled() or x.dtype != update.dtype:
        return x + update
    return update.add_(x)


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
        hidden = self.dropout(F.silu(scaled, inplace=not torch.is_grad_enabled()))
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

    def memory(self, patches: Tensor) -> Memory:
        """Keys and values of layer-normed tokens ``[batch, tokens, d]``."""
        return Memory(self._split(self.key(patches)), self._split(self.value(patches)))

    def forward(self, texts: Tensor, memory: Memory) -> Tensor:
        """``[batch or 1, texts, d]`` to ``[batch, texts, d]``."""
        keys, values = memory
        query = self._split(self.query(texts)).expand(len(keys), -1, -1, -1)
        attended = F.scaled_dot_product_attention(query, keys, values)
        merged = attended.transpose(1, 2).flatten(-2)
        texts = _added(texts, self.dropout(self.output(merged)))
        return _added(texts, self.dropout(self.mlp(self.norm(texts))))


class CrossModalTraction(nn.Module):
    """Cross-attention layers from text features to patches, weighted by the vector lambda."""

    def __init__(self, dimension: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttentionLayer(dimension, dropout) for _ in range(layers))
        self.gain = nn.Parameter(torch.full((dimension,), INITIAL_GAIN))

    def memories(self, patches: Tensor) -> Iterator[Memory]:
        """What each layer reads of the patches: once for all blocks of texts.

        Args:
            patches: layer-normed tokens of the images, class token included,
                ``[batch, tokens, d]``.
        """
        for layer in self.layers:
            assert isinstance(layer, CrossAttentionLayer)
            yield layer.memory(patches)

    def forward(self, texts: Tensor, memories: Iterable[Memory]) -> Tensor:
        """Text features for each image of a batch.

        Args:
            texts: unit-length text features, ``[texts, d]``.
            memories: of the images, as :meth:`memories` yields them.

        Returns:
            Unit-length features ``[batch, texts, d]``.
        """
        # One row stands for the whole batch until the first attention tells the images apart.
        drawn = texts.unsqueeze(0)
        for layer, memory in zip(self.layers, memories, strict=True):
            drawn = layer(drawn, memory)
        return F.normalize(texts + self.gain * drawn, dim=-1)
