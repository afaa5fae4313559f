"""What ``precision: auto`` stands for, and the context in which a precision is computed in.

In bfloat16 on a CPU attention stays in float32 unless the processor has AMX: torch's backward of
attention in bfloat16 is several times slower there, which eats up what the matrix products gain.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn import functional as F

from compositional_prompts.compute.side_by_side import SideBySide
from compositional_prompts.pipeline.section import Precision, PrecisionChoice, Section

log = logging.getLogger(__name__)

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Precisions whose name is that of a dtype."""

WORTHWHILE = 1.15
"""How many times as fast as float32 bfloat16 must be measured to be chosen: less is within what a
measurement of a third of a second is off by.
"""

REPEATS = 3
"""Of the measurement, precisions taking turns; the fastest counts."""

Params = TypeVar("Params", bound=Section)


@dataclass(frozen=True)
class ResolvedPrecision:
    """The precision that a stage computes in, and why.

    Attributes:
        precision: none but a fixed one.
        attention: the precision of attention, where it is another one.
        reason: for the log.
    """

    precision: Precision
    attention: Precision | None
    reason: str

    def __str__(self) -> str:
        kept = "" if self.attention is None else f", attention in {self.attention}"
        return f"{self.precision}{kept}"


@cache
def processor_capabilities() -> Mapping[str, Any]:
    """What torch finds this processor to have, by name (``amx_bf16``, ``avx512_bf16``)."""
    capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
    return capabilities


def attention_precision(precision: Precision, device: torch.device) -> Precision | None:
    """``float32`` where attention is kept in it, None where it is computed as all else is."""
    kept = precision == "bfloat16" and device.type == "cpu"
    return "float32" if kept and not processor_capabilities().get("amx_bf16") else None


def resolve_precision(
    choice: PrecisionChoice,
    processes: Accelerator | torch.device,
    measure: Callable[[], float] | None = None,
) -> ResolvedPrecision:
    """The precision for ``auto``; any other one is itself.

    A GPU with bfloat16 gets it. A CPU with AVX512-BF16 or AMX gets it if it is
    :data:`WORTHWHILE` by a measurement of about a third of a second. All else gets float32.

    Args:
        choice: the parameter.
        processes: those that compute together, which all get the choice of the first, or the
            device of this one alone.
        measure: how many times as fast bfloat16 is; by default :func:`bfloat16_speed`.
    """
    device = processes.device if isinstance(processes, Accelerator) else processes
    chosen, reason = choice, "asked for"
    if choice == "auto":
        chosen, reason = _chosen(device, measure or bfloat16_speed)
        if isinstance(processes, Accelerator) and processes.num_processes > 1:
            chosen, reason = broadcast_object_list([chosen, reason])
    precision = cast("Precision", chosen)
    return ResolvedPrecision(precision, attention_precision(precision, device), reason)


def _chosen(device: torch.device, measure: Callable[[], float]) -> tuple[Precision, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU has it"
        return "float32", "the GPU only emulates bfloat16"
    has = processor_capabilities()
    if device.type != "cpu" or not (has.get("avx512_bf16") or has.get("amx_bf16")):
        return "float32", "the processor has no bfloat16 units"
    speed = measure()
    reason = f"bfloat16 was measured {speed:.2f} times as fast"
    return ("bfloat16" if speed >= WORTHWHILE else "float32"), reason


def with_fixed_precision(
    params: Params, processes: Accelerator | torch.device
) -> tuple[Params, ResolvedPrecision]:
    """``params``, whose ``precision`` may be ``auto``, with the precision that this stands for.

    What is kept between runs (checkpoints, finished shards) goes by these parameters, so that no
    run goes on in another precision than it began in.
    """
    choice: PrecisionChoice = params.precision  # type: ignore[attr-defined]
    resolved = resolve_precision(choice, processes)
    return params.model_copy(update={"precision": resolved.precision}), resolved


def autocast(device: torch.device, precision: PrecisionChoice) -> AbstractContextManager[Any]:
    """The context to compute in at a precision: in float32 none, elsewhere torch's autocast.

    8 and 4 bits compute in bfloat16.

    Raises:
        ValueError: the precision is ``auto``.
    """
    if precision == "auto":
        raise ValueError("precision auto must be resolved first: see resolve_precision.")
    dtype = DTYPES.get(precision, torch.bfloat16)
    if attention_precision(precision, device) is not None:
        _widen_attention()
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _wide_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention under autocast on a CPU: in bfloat16's place in float32, its result in bfloat16."""
    dtype = torch.get_autocast_dtype("cpu")
    computed = torch.float32 if dtype == torch.bfloat16 else dtype

    def cast_input(x: Tensor) -> Tensor:
        # As autocast does, which leaves float64 alone.
        return x.to(computed) if x.is_floating_point() and x.dtype != torch.float64 else x

    mask = None if attn_mask is None else cast_input(attn_mask)
    inputs = (cast_input(query), cast_input(key), cast_input(value))
    with torch.autocast("cpu", enabled=False):
        attended = F.scaled_dot_product_attention(
            *inputs, mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    return attended if attended.dtype == torch.float64 else attended.to(dtype)


@cache
def _widen_attention() -> torch.library.Library:
    """Give autocast :func:`_wide_attention`, from here to the end of the process.

    Every module's attention goes by it, of whatever library, and so does what a backward pass
    computes again outside of the context. Without autocast nothing changes.
    """
    library = torch.library.Library("aten", "IMPL")
    library.impl("scaled_dot_product_attention", _wide_attention, "AutocastCPU")
    return library


def bfloat16_speed() -> float:
    """How many times as fast a small transformer layer is trained in bfloat16 as in float32.

    Its matrix products and attention are those of this project's trainings, forwards and
    backwards, in one thread: more wait for one another in products so small, and the share of
    that is another one each time.
    """
    device = torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    tokens, width, heads = (2, 192), 512, 8
    shapes = ((*tokens, width), (3 * width, width), (width, width))
    x, joined, output = (torch.randn(shape, generator=generator) * 0.05 for shape in shapes)
    for tensor in (x, joined, output):
        tensor.requires_grad_()

    def seconds(precision: Precision) -> float:
        start = time.perf_counter()
        with torch.enable_grad(), autocast(device, precision):
            parts = F.linear(x, joined).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(*parts)
            loss = F.linear(attended.transpose(1, 2).flatten(2), output).float().square().sum()
        torch.autograd.grad(loss, (x, joined, output))
        return time.perf_counter() - start

    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    with SideBySide(1):
        turns = [[seconds(precision) for precision in precisions] for _ in range(REPEATS + 1)]
    slow, fast = (min(times) for times in zip(*turns[1:], strict=True))  # the first warms up
    return float(slow / fast)
