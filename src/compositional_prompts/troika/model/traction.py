"""Cross-Modal Traction: text features drawn towards the patches of one image.

Source: Troika (CVPR 2024), section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compositional_prompts.compute.training.few_bits_dropout import FewBitsDropout

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


class ProjectedPatches(NamedTuple):
    """What one layer reads of the patches: no text has a part in it.

    Attributes:
        keys: ``[batch, heads, tokens, d / heads]``.
        values: ``[batch, heads, tokens, d / heads]``.
    """

    keys: Tensor
    values: Tensor


class PlainPatches(NamedTuple):
    """The patches themselves, for so few texts that these are sooner projected than patches are.

    Attributes:
        tokens: layer-normed, ``[batch, tokens, d]``.
    """

    tokens: Tensor


Memory = ProjectedPatches | PlainPatches


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
        self.dropout = FewBitsDropout(dropout)

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
        self.dropout = FewBitsDropout(dropout)

    def _split(self, x: Tensor) -> Tensor:
        batch, rows, dimension = x.shape
        return x.reshape(batch, rows, self.heads, dimension // self.heads).transpose(1, 2)

    def memory(self, patches: Tensor, texts: int) -> Memory:
        """What so many texts read of layer-normed tokens ``[batch, tokens, d]``.

        Keys and values take ``2 d^2`` products a token. Without them a text takes ``2 d`` a head
        and token in the place of ``2 d`` a token.
        """
        if texts * (self.heads - 1) < patches.shape[2]:
            return PlainPatches(patches)
        return ProjectedPatches(self._split(self.key(patches)), self._split(self.value(patches)))

    def _attend(self, query: Tensor, memory: Memory) -> Tensor:
        """Queries ``[batch or 1, heads, texts, d / heads]`` to ``[batch, texts, d]``."""
        if isinstance(memory, PlainPatches):
            return self._attend_plain(query, memory.tokens)
        query = query.expand(len(memory.keys), -1, -1, -1)
        attended: Tensor = F.scaled_dot_product_attention(query, memory.keys, memory.values)
        return attended.transpose(1, 2).flatten(-2)

    def _attend_plain(self, query: Tensor, tokens: Tensor) -> Tensor:
        # q (W p) is (W^T q) p, and the sum of w (V p) is V applied to the sum of w p. Head by head,
        # so that each product is of all texts of all images.
        dtype, width = self.key.weight.dtype, query.shape[3]
        tokens = tokens.to(dtype)
        keys, values = (part.weight.split(width) for part in (self.key, self.value))
        # On a CPU attention is in float32 under autocast, whatever computes it.
        with torch.autocast("cpu", enabled=False):
            asking = (query.to(dtype) * width**-0.5).unbind(1)
            asked = torch.cat([q @ key for q, key in zip(asking, keys, strict=True)], dim=1)
            weights = torch.matmul(tokens, asked.transpose(1, 2)).softmax(dim=1).to(dtype)
            read = torch.matmul(weights.transpose(1, 2), tokens).chunk(self.heads, dim=1)
            return torch.cat(
                [F.linear(r, value) for r, value in zip(read, values, strict=True)], dim=2
            )

    def forward(self, texts: Tensor, memory: Memory) -> Tensor:
        """``[batch or 1, texts, d]`` to ``[batch, texts, d]``."""
        merged = self._attend(self._split(self.query(texts)), memory)
        texts = _added(texts, self.dropout(self.output(merged)))
        return _added(texts, self.dropout(self.mlp(self.norm(texts))))


class CrossModalTraction(nn.Module):
    """Cross-attention layers from text features to patches, weighted by the vector lambda."""

    def __init__(self, dimension: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttentionLayer(dimension, dropout) for _ in range(layers))
        self.gain = nn.Parameter(torch.full((dimension,), INITIAL_GAIN))

    def memories(self, patches: Tensor, texts: int) -> Iterator[Memory]:
        """What each layer reads of the patches: once for all blocks of texts.

        Args:
            patches: layer-normed tokens of the images, class token included,
                ``[batch, tokens, d]``.
            texts: how many will read them, in all blocks together.
        """
        for layer in self.layers:
            assert isinstance(layer, CrossAttentionLayer)
            yield layer.memory(patches, texts)

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
