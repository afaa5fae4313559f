"""The traction reads the same of patches that are projected and of patches that are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compositional_prompts.compute.precision import autocast
from compositional_prompts.troika.model.traction import (
    CrossAttentionLayer,
    Memory,
    PlainPatches,
    ProjectedPatches,
)

DIMENSION = 192
"""Three heads of 64."""


def projected(layer: CrossAttentionLayer, patches: Tensor) -> Memory:
    """Keys and values, as for more texts than there are."""
    memory = layer.memory(patches, 10**6)
    assert isinstance(memory, ProjectedPatches)
    return memory


@pytest.mark.parametrize("rows", [1, 5])
def test_plain_patches_are_read_as_keys_and_values(rows: int) -> None:
    layer = CrossAttentionLayer(DIMENSION, 0.0).double()
    texts = torch.randn(rows, 7, DIMENSION, dtype=torch.float64)
    patches = torch.randn(5, 11, DIMENSION, dtype=torch.float64)
    weights = torch.randn(5, 7, DIMENSION, dtype=torch.float64)
    found = []
    for way in (projected, lambda layer, patches: layer.memory(patches, 7)):
        leaves = [texts.clone().requires_grad_(), patches.clone().requires_grad_()]
        memory = way(layer, leaves[1])
        assert isinstance(memory, PlainPatches) == (way is not projected)
        drawn = layer(leaves[0], memory)
        parameters = [*leaves, *layer.parameters()]
        found.append([drawn, *torch.autograd.grad((drawn * weights).sum(), parameters)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(("texts", "plain"), [(1, True), (95, True), (96, False), (10**6, False)])
def test_few_texts_read_plain_patches(texts: int, plain: bool) -> None:
    layer = CrossAttentionLayer(DIMENSION, 0.0)
    memory = layer.memory(torch.randn(2, 3, DIMENSION), texts)
    assert isinstance(memory, PlainPatches) == plain


def test_in_bfloat16_plain_patches_stay_close() -> None:
    layer = CrossAttentionLayer(DIMENSION, 0.0)
    texts, patches = torch.randn(1, 7, DIMENSION), torch.randn(5, 11, DIMENSION)
    exact = layer(texts, layer.memory(patches, 7))
    with autocast(torch.device("cpu"), "bfloat16"):
        rounded = layer(texts, layer.memory(patches, 7))
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)
