"""Weights with which a model of random numbers says more than nothing."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def draw_weights(model: nn.Module, std: float) -> None:
    """Draw all matrices anew: the default initialisation gives nearly uniform probabilities."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(std=std)
