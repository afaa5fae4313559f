"""Muon against the polynomial in singular values that it is, and torch's own Muon."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compositional_prompts.compute.side_by_side import SideBySide
from compositional_prompts.compute.training.muon import (
    COEFFICIENTS,
    ITERATIONS,
    MATRIX_WEIGHT_DECAY,
    Muon,
    ScheduledOptimizers,
    orthogonalized,
)


def polynomial(matrix: Tensor) -> Tensor:
    """What the iteration does, in float64 and through the singular values it acts on."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.square().sum().sqrt()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    return left @ values.diag() @ right


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48), (128, 512), (1, 7)])
def test_singular_values_are_drawn_towards_one(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalized(matrices)
    for one, matrix in zip(found, matrices, strict=True):
        torch.testing.assert_close(one.double(), polynomial(matrix), rtol=1e-3, atol=1e-4)
    assert not orthogonalized(torch.zeros(1, *shape)).any()


def test_it_steps_as_the_muon_of_torch_does() -> None:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(48, 16, generator=generator)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([{"params": [ours]}], lr=0.1),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=MATRIX_WEIGHT_DECAY),
    )
    for _ in range(4):
        gradient = torch.randn(48, 16, generator=generator)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # theirs computes in bfloat16


def test_threads_that_share_the_matrices_change_no_bit() -> None:
    generator = torch.Generator().manual_seed(5)
    shapes = [(24, 24), (48, 16), (16, 48), (8, 8), (32, 8)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]
    stepped = []
    for threads in (1, 2):
        matrices = [nn.Parameter(matrix.clone()) for matrix in start]
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient.clone()
        with SideBySide(threads) as shared:
            Muon([{"params": matrices}], lr=0.1, threads=shared).step()
        stepped.append(matrices)
    for one, two, before in zip(*stepped, start, strict=True):
        assert torch.equal(one, two)
        assert not torch.equal(one, before)


def test_matrices_that_lie_under_one_another_are_stepped_each_for_itself() -> None:
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(8, 8, generator=generator) for _ in range(3)]
    gradients = [torch.randn(8, 8, generator=generator) for _ in range(3)]
    together = nn.Parameter(torch.cat(parts))
    together.grad = torch.cat(gradients)
    Muon([{"params": [together], "parts": 3}], lr=0.1).step()
    alone = [nn.Parameter(part.clone()) for part in parts]
    for parameter, gradient in zip(alone, gradients, strict=True):
        parameter.grad = gradient
    Muon([{"params": alone}], lr=0.1).step()
    torch.testing.assert_close(together, torch.cat(list(alone)))


class Small(nn.Module):
    """An embedding, a block of attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Embedding(10, 8)
        self.block = nn.MultiheadAttention(8, 2, batch_first=True)
        self.unused = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        logits: Tensor = self.head(self.block(hidden, hidden, hidden)[0])
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())


def optimizers_of(model: Small, **settings: Any) -> ScheduledOptimizers:
    return ScheduledOptimizers(
        model.parameters(),
        [model.block, model.unused],
        **{"learning_rate": 0.01, "matrix_learning_rate": 0.02, **settings},
        multiplier=lambda step: 1 / (step + 1),
        threads=SideBySide(1),
    )


def test_blocks_go_to_muon_and_the_rest_to_adamw_under_one_schedule() -> None:
    model = Small()
    model.head.bias.requires_grad_(False)
    optimizers = optimizers_of(model)
    adamw, muon = optimizers.optimizers
    held = {parameter: group for group in muon.param_groups for parameter in group["params"]}
    assert set(held) == {
        model.block.in_proj_weight, model.block.out_proj.weight, model.unused.weight,
    }  # fmt: skip
    assert held[model.block.in_proj_weight]["parts"] == 3
    others = {parameter for group in adamw.param_groups for parameter in group["params"]}
    assert others == {p for p in model.parameters() if p.requires_grad} - set(held)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.arange(10)[None]
    first = model(ids).item()
    for _ in range(20):
        optimizers.step(model(ids))
    assert model(ids).item() < first
    assert [group["lr"] for group in adamw.param_groups] == pytest.approx([0.01 / 21] * 2)
    assert muon.param_groups[0]["lr"] == pytest.approx(0.02 / 21)
    changed = {
        name for name, old in before.items() if not torch.equal(old, model.state_dict()[name])
    }
    assert changed == set(before) - {"head.bias", "unused.weight", "unused.bias"}


def test_without_a_rate_of_its_own_nothing_is_muons() -> None:
    model = Small()
    (adamw,) = optimizers_of(model, matrix_learning_rate=None).optimizers
    held = [parameter for group in adamw.param_groups for parameter in group["params"]]
    assert set(held) == set(model.parameters())
    assert math.isclose(adamw.param_groups[0]["lr"], 0.01)
