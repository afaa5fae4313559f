"""Batch norm over a batch that several processes hold in parts.

torch's own ``SyncBatchNorm`` does this on GPUs only. Sums of a feature and of its squared distance
from the mean are added up over the processes, so that statistics, running statistics and gradients
are those of the whole batch, however unevenly it is shared.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes, on each of them; all must ask.

    The loss is a sum over processes too, and every part of it depends on the sum: so the gradient
    of a summand is the sum of the processes' gradients.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradients[0])


class SharedBatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` of the processes' batches taken together.

    The gradient of a parameter is that of this process' part of the loss, as everywhere else.

    Attributes:
        counted: whether this process' batch is part of the whole. Where there are more processes
            than images, some have a stand-in, which is normalised as the others are.
    """

    counted: bool = True

    @classmethod
    def of(cls, norm: nn.BatchNorm1d) -> SharedBatchNorm:
        """One with the parameters and running statistics of ``norm``, the same tensors."""
        shared = cls(norm.num_features, norm.eps, norm.momentum)
        shared.weight, shared.bias = norm.weight, norm.bias
        shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
        shared.num_batches_tracked = norm.num_batches_tracked
        return shared.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """``[share, features]`` to the same."""
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        own = x if self.counted else x[:0]
        sums: Tensor = _SumOverProcesses.apply(torch.cat([own.sum(0), x.new_tensor([len(own)])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        # About the mean, not as the mean of squares less the square of the mean, which cancel.
        variance: Tensor = _SumOverProcesses.apply((own - mean).square().sum(0)) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * count / (count - 1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        normalised = (x - mean) * (variance + self.eps).rsqrt()
        return (normalised * self.weight + self.bias).to(input.dtype)


def share_batch_norms(model: nn.Module) -> list[SharedBatchNorm]:
    """Let every ``nn.BatchNorm1d`` of ``model`` see the batches of all processes; return them."""
    norms = []
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm1d:
                norms.append(SharedBatchNorm.of(child))
                setattr(module, name, norms[-1])
    return norms
