"""What ``precision: auto`` becomes, and attention that stays in float32."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compositional_prompts.compute import precision as precision_module
from compositional_prompts.compute.precision import (
    WORTHWHILE,
    autocast,
    bfloat16_speed,
    resolve_precision,
    with_fixed_precision,
)
from compositional_prompts.pipeline.section import PrecisionChoice, Section

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What the processor is made to have."""
    found: dict[str, bool] = {}
    monkeypatch.setattr(precision_module, "processor_capabilities", lambda: found)
    return found


def not_asked() -> float:
    raise AssertionError("nothing is to be measured")


def test_without_units_it_is_float32_and_nothing_is_measured(capabilities: dict[str, bool]) -> None:
    capabilities |= {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}
    resolved = resolve_precision("auto", CPU, not_asked)
    assert (str(resolved), resolved.precision) == ("float32", "float32")
    assert "no bfloat16 units" in resolved.reason


@pytest.mark.parametrize(
    ("unit", "speed", "expected"),
    [
        ("avx512_bf16", WORTHWHILE, "bfloat16, attention in float32"),
        ("avx512_bf16", WORTHWHILE - 0.01, "float32"),
        ("amx_bf16", 3.0, "bfloat16"),
        ("amx_bf16", 0.9, "float32"),
    ],
)
def test_units_are_measured(
    unit: str, speed: float, expected: str, capabilities: dict[str, bool]
) -> None:
    capabilities[unit] = True
    resolved = resolve_precision("auto", CPU, lambda: speed)
    assert str(resolved) == expected
    assert f"{speed:.2f} times" in resolved.reason


@pytest.mark.parametrize(("real", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_has_bfloat16_or_emulates_it(
    real: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: real)
    assert str(resolve_precision("auto", CUDA, not_asked)) == expected


@pytest.mark.parametrize("choice", ["float32", "bfloat16", "float16", "int8", "int4"])
def test_a_fixed_precision_is_itself(choice: PrecisionChoice) -> None:
    assert resolve_precision(choice, CUDA, not_asked).precision == choice


class _Chosen(Section):
    section: ClassVar[str] = "chosen"
    precision: PrecisionChoice
    epochs: int


def test_parameters_get_the_precision_that_keys_what_is_kept(
    capabilities: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities["avx512_bf16"] = True
    monkeypatch.setattr(precision_module, "bfloat16_speed", lambda: 2.0)
    params, resolved = with_fixed_precision(_Chosen(precision="auto", epochs=3), CPU)
    assert params.model_dump() == {"precision": "bfloat16", "epochs": 3}
    assert resolved.precision == "bfloat16"


def test_this_process_can_measure_itself() -> None:
    assert 0 < bfloat16_speed() < math.inf


def test_auto_is_not_computed_in() -> None:
    with pytest.raises(ValueError, match="resolved first"):
        autocast(CPU, "auto")


def _attended(inputs: list[Tensor], **options: Any) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = F.scaled_dot_product_attention(*leaves, **options)
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    gradients = torch.autograd.grad((out.double() * weights).sum(), leaves)
    return out, list(gradients)


@pytest.mark.parametrize("masked", ["no", "causal", "mask"])
def test_attention_is_in_float32_forwards_and_backwards(
    masked: str, capabilities: dict[str, bool]
) -> None:
    inputs = [4 * torch.randn(2, 3, 33, 16) for _ in range(3)]
    options: dict[str, Any] = {}
    if masked == "causal":
        options["is_causal"] = True
    if masked == "mask":
        options["attn_mask"] = torch.randn(33, 33)
    plain, expected = _attended(inputs, **options)
    with autocast(CPU, "bfloat16"):
        out, gradients = _attended(inputs, **options)
    # Only the result is rounded: to the eight bits of bfloat16, and nothing before it.
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, plain.bfloat16())
    for found, wanted in zip(gradients, expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=2**-7 * float(wanted.abs().max()), rtol=0)


def test_inputs_in_bfloat16_are_widened() -> None:
    inputs = [torch.randn(2, 3, 20, 16).bfloat16() for _ in range(3)]
    with autocast(CPU, "bfloat16"):
        out = F.scaled_dot_product_attention(*inputs)
    wide = F.scaled_dot_product_attention(*(tensor.float() for tensor in inputs))
    assert torch.equal(out, wide.bfloat16())


def test_modules_of_torch_attend_in_float32_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    plain = F.scaled_dot_product_attention

    def noted(query: Tensor, *rest: Any, **options: Any) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            seen.append(query.dtype)
        return plain(query, *rest, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    x = torch.randn(2, 5, 16)
    with autocast(CPU, "bfloat16"):
        y, _ = attention(x, x, x, need_weights=False)
    assert seen == [torch.float32]
    assert y.dtype == torch.bfloat16
    with torch.no_grad():
        expected, _ = attention(x, x, x, need_weights=False)
    torch.testing.assert_close(y.float(), expected, atol=0.03, rtol=0)


def test_float32_is_left_exactly_as_it_is() -> None:
    inputs = [torch.randn(2, 3, 33, 16) for _ in range(3)]
    plain, expected = _attended(inputs)
    with autocast(CPU, "bfloat16"):
        _attended(inputs)  # what it changes in the process does not reach float32
    with autocast(CPU, "float32"):
        out, gradients = _attended(inputs)
    assert torch.equal(out, plain)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_are_cast_as_autocast_does(dtype: torch.dtype) -> None:
    inputs = [torch.randn(2, 3, 20, 16, dtype=torch.float64) for _ in range(3)]
    with autocast(CPU, "bfloat16"):
        pass  # attention is widened from here on
    if dtype == torch.float64:
        with autocast(CPU, "bfloat16"):
            out = F.scaled_dot_product_attention(*inputs)
        assert torch.equal(out, F.scaled_dot_product_attention(*inputs))
    else:
        narrow = [tensor.float() for tensor in inputs]
        with autocast(CPU, "float16"):
            out = F.scaled_dot_product_attention(*narrow)
        assert out.dtype == torch.float16
        assert torch.equal(
            out, F.scaled_dot_product_attention(*(tensor.half() for tensor in narrow))
        )
