"""Dropout of an adapter: as torch's in all but the bits that it takes."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from micro_blip2 import LORA, miniature
from peft.tuners.lora import LoraLayer

from compositional_prompts.captioner.model.lora import add_adapter, load_adapter
from compositional_prompts.compute.training.few_bits_dropout import FewBitsDropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("shape", [(512, 1024), (3, 5, 60_001)])
def test_every_element_is_dropped_as_often_as_asked(p: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(11)
    values = torch.randn(shape, requires_grad=True)
    output = FewBitsDropout(p)(values)
    output.sum().backward()
    rounded = round(p * 2**16) / 2**16
    kept = output != 0
    torch.testing.assert_close(output[kept], values[kept] / (1 - rounded))
    torch.testing.assert_close(values.grad, kept / (1 - rounded))
    # By place in the draw of four, and beside the one dropped before: six standard deviations.
    whole = kept.flatten()[: kept.numel() // 4 * 4].view(-1, 4).double()
    spread = 6 * math.sqrt(p * (1 - p) / len(whole))
    assert (whole.mean(0) - (1 - rounded)).abs().max() < spread
    correlation = torch.corrcoef(whole.T) - torch.eye(4)
    assert correlation.abs().max() < 6 / math.sqrt(len(whole))


def test_the_generator_decides_and_evaluation_keeps_all() -> None:
    dropout, values = FewBitsDropout(0.3), torch.randn(7, 9)
    torch.manual_seed(5)
    first, second = dropout(values), dropout(values)
    torch.manual_seed(5)
    assert torch.equal(dropout(values), first)
    assert not torch.equal(first, second)
    assert torch.equal(dropout.eval()(values), values)


def test_an_adapter_has_it() -> None:
    captioner = miniature("opt")
    adapted = add_adapter(captioner, LORA.model_copy(update={"dropout": 0.25}))
    layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    dropouts = [dropout for layer in layers for dropout in layer.lora_dropout.values()]
    assert dropouts
    assert all(type(one) is FewBitsDropout and one.p == 0.25 for one in dropouts)


def test_an_adapter_is_made_and_taken_up_without_warnings(tmp_path: Path) -> None:
    """PEFT asks transformers for names that it is about to give up; users can do nothing there."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapted = add_adapter(miniature("opt"), LORA)
        adapted.save_pretrained(str(tmp_path))
        load_adapter(miniature("opt"), tmp_path)
    assert [str(one.message) for one in told if "gradient_checkpointing" in str(one.message)] == []
