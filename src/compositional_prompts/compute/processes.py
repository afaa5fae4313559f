"""The processes that train together, as Accelerate has them."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin

SUPPORTED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.FSDP,
)


def join_processes(device: torch.device) -> Accelerator:
    """This process' place among those that ``accelerate launch`` or ``torchrun`` started.

    Precision and gradient accumulation are the stage's parameters: what Accelerate's own
    configuration says of them is not heeded.

    Args:
        device: as ``base.device`` resolves; the accelerator's ``device`` is this process' own.

    Raises:
        ValueError: the launcher is configured for something else than DDP or FSDP 2.
    """
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    kind = accelerator.distributed_type
    if kind not in SUPPORTED or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):
        raise ValueError(
            f"Training runs under DDP or FSDP 2, and Accelerate is configured for {kind.value} "
            "(FSDP 1 keeps frozen and trained weights of different precisions in one tensor, "
            "which it cannot): run `accelerate config`, or launch with --fsdp_version 2."
        )
    return accelerator


def any_process(accelerator: Accelerator, condition: bool) -> bool:
    """Whether ``condition`` holds on any of the processes; all must ask."""
    if accelerator.num_processes == 1:
        return condition
    if condition:
        accelerator.set_trigger()
    return bool(accelerator.check_trigger())
