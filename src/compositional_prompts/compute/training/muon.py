"""Muon for the inner matrices of transformer blocks, AdamW for everything else.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) steps by the momentum's
nearest orthogonal matrix, so that every direction of a matrix learns at the same rate, and needs
about a third of AdamW's steps here. ``torch.optim.Muon`` computes in bfloat16: on a processor
without units for it, twelve times as slow as this one, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compositional_prompts.compute.side_by_side import PARTS, SideBySide

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5 draws singular values towards 1
ITERATIONS = 5
MOMENTUM = 0.95
MATRIX_WEIGHT_DECAY = 0.01
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
GRADIENT_NORM = 1.0

FUSED_PARTS = {"in_proj_weight": 3}
"""Parameters that hold several matrices under one another, and how many: each is one to Muon."""


def orthogonalized(matrices: Tensor) -> Tensor:
    """About ``U V^T`` of matrices ``U S V^T``, by the Newton-Schulz iteration of Muon.

    Each step multiplies by a polynomial of ``X X^T``. Where that is smaller than ``X``, the steps
    are taken on it alone, and their product is multiplied by ``X`` once, at the end.

    Args:
        matrices: float32 ``[n, rows, columns]``.

    Returns:
        Of the same shape; singular values that were not tiny lie between 0.6 and 1.3.
    """
    a, b, c = COEFFICIENTS
    high = matrices.shape[-2] > matrices.shape[-1]
    wide: Tensor = matrices.mT if high else matrices
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    gram = wide @ wide.mT
    if wide.shape[-2] == wide.shape[-1]:
        for step in range(ITERATIONS):
            factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            wide = torch.baddbmm(wide, factor, wide, beta=a)
            if step < ITERATIONS - 1:
                gram = wide @ wide.mT
    else:
        product = gram
        for step in range(ITERATIONS):
            factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
            product = factor @ product if step else factor
            if step < ITERATIONS - 1:
                gram = factor @ gram @ factor
        wide = product @ wide
    return wide.mT if high else wide


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, in the precision of its matrices.

    A group's ``parts`` says how many matrices lie under one another in each of its parameters.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, threads: SideBySide | None = None
    ) -> None:
        """Begin with the momentum at zero.

        Args:
            groups: ``params``, two-dimensional, and ``parts``.
            lr: the learning rate; a step changes every singular value by about as much, times
                ``sqrt(rows / columns)`` where a matrix is higher than wide.
            threads: what steps, some matrices each; None: this one.
        """
        super().__init__(groups, {"lr": lr, "parts": 1})
        self._threads = threads or SideBySide(1)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step by the gradients; parameters without one stay as they are."""
        steps = [
            partial(self._step, matrix, group["lr"], group["parts"])
            for group in self.param_groups
            for matrix in sorted(group["params"], key=torch.numel, reverse=True)
            if matrix.grad is not None
        ]
        self._threads.results([partial(_in_turn, steps[part::PARTS]) for part in range(PARTS)])

    @torch.no_grad()
    def _step(self, matrix: Tensor, rate: float, parts: int) -> None:
        gradient = matrix.grad
        assert gradient is not None
        momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        direction = gradient.lerp(momentum, MOMENTUM).unflatten(0, (parts, -1))
        rows, columns = direction.shape[1:]
        matrix.mul_(1 - rate * MATRIX_WEIGHT_DECAY)
        scale = math.sqrt(max(1, rows / columns))
        matrix.add_(orthogonalized(direction).flatten(0, 1), alpha=-rate * scale)


def _in_turn(steps: Iterable[Callable[[], None]]) -> None:
    for step in steps:
        step()


class ScheduledOptimizers:
    """Both optimizers under one schedule of the learning rate, with clipped gradients.

    Attributes:
        optimizers: AdamW, and Muon where matrices are its.
        schedules: of the learning rate of each of them.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        blocks: Iterable[nn.Module],
        *,
        learning_rate: float,
        matrix_learning_rate: float | None,
        multiplier: Callable[[int], float],
        threads: SideBySide,
    ) -> None:
        """Begin to train.

        Args:
            parameters: all that is trained; those that need no gradient are left alone.
            blocks: the transformer blocks whose matrices are Muon's.
            learning_rate: AdamW's peak.
            matrix_learning_rate: Muon's peak; None leaves the blocks to AdamW too.
            multiplier: of both rates, by the number of the step.
            threads: what computes the steps of Muon.
        """
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        matrices = {
            parameter: FUSED_PARTS.get(name.rpartition(".")[2], 1)
            for block in ([] if matrix_learning_rate is None else blocks)
            for name, parameter in block.named_parameters()
            if parameter.ndim == 2 and parameter.requires_grad
        }
        rest = [parameter for parameter in trained if parameter not in matrices]
        adamw = torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
                {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0},
            ],
            lr=learning_rate,
            betas=BETAS,
            fused=True,
        )
        self.optimizers: list[torch.optim.Optimizer] = [adamw]
        if matrix_learning_rate is not None:
            groups = [{"params": [matrix], "parts": parts} for matrix, parts in matrices.items()]
            self.optimizers.append(Muon(groups, matrix_learning_rate, threads))
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)
            for optimizer in self.optimizers
        ]

    def step(self, loss: Tensor) -> None:
        """Differentiate ``loss`` and step by the gradient."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        adamw, *_ = self.optimizers
        for group in adamw.param_groups:  # Muon's direction has no length
            nn.utils.clip_grad_norm_(group["params"], GRADIENT_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
        for schedule in self.schedules:
            schedule.step()
