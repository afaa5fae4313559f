"""Weights, features and captions that are no numbers, or nothing at all, are errors that say so."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from micro_blip2 import QUERIES, miniature, save
from safetensors.torch import load_file, save_file

from compositional_prompts.captioner.decoding.caption_generation import generate_captions
from compositional_prompts.captioner.decoding.token_automaton import compile_grammar
from compositional_prompts.captioner.inference import EmptyCaptionsError, _require_text
from compositional_prompts.captioner.model.blip2_model import Captioner, load_captioner
from compositional_prompts.captioner.parameters import Sampling
from compositional_prompts.captioner.training.caption_curve import nothing_learnt
from compositional_prompts.compute.training.training_run import TrainingRun
from compositional_prompts.files.outputs import DamagedOutputError


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return miniature()


def ways(captioner: Captioner) -> dict[str, dict[str, Any]]:
    grammar = compile_grammar(
        [["a red shoe", "a blue boot"]], captioner.tokenizer, captioner.end_of_caption
    )
    return {
        "greedily": {"num_beams": 1},
        "by beams": {"num_beams": 3},
        "sampled": {
            "num_beams": 1,
            "sampling": Sampling(temperature=1.0, top_k=0, top_p=0.9),
            "seeds": range(4),
        },
        "by the grammar": {"num_beams": 2, "grammar": grammar},
    }


@pytest.mark.parametrize("way", ["greedily", "by beams", "sampled", "by the grammar"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_features_that_are_no_numbers_are_not_captioned(
    captioner: Captioner, way: str, number: float
) -> None:
    queries = torch.randn(4, QUERIES, 32, generator=torch.Generator().manual_seed(1))
    assert len(generate_captions(captioner, queries, max_new_tokens=6, **ways(captioner)[way])) == 4
    queries[2, 0, 0] = number
    with pytest.raises(ValueError, match=r"log-probabilities .* are NaN or infinite"):
        generate_captions(captioner, queries, max_new_tokens=6, **ways(captioner)[way])


@pytest.mark.parametrize(
    ("tensor", "half"),
    [
        ("language_projection.weight", "language"),
        ("language_projection.weight", "whole"),
        ("query_tokens", "frozen"),
    ],
)
def test_a_number_among_the_weights_that_is_none_names_file_and_tensor(
    captioner: Captioner, tmp_path: Path, tensor: str, half: Any
) -> None:
    save(captioner, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors[tensor].view(-1)[3] = math.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(DamagedOutputError, match=rf"{file} is damaged \(its tensor {tensor}"):
        load_captioner(tmp_path, torch.device("cpu"), half=half)
    if half == "language":  # what is not loaded is not looked at
        load_captioner(tmp_path, torch.device("cpu"), half="frozen")


class How:
    def __init__(self, grammar: bool, adapter: Path | None) -> None:
        self.grammar = grammar
        self.adapter = adapter


@pytest.mark.parametrize("grammar", [True, False])
def test_captions_that_are_all_empty_are_an_error(
    grammar: bool, caplog: pytest.LogCaptureFixture
) -> None:
    how: Any = How(grammar, Path("models/blip2_lora"))
    empty = pa.chunked_array([["", ""], [""]], pa.string())
    with pytest.raises(EmptyCaptionsError, match=r"All 3 captions .*models/blip2_lora writes"):
        _require_text(empty, how)
    _require_text(pa.chunked_array([["", "a"]], pa.string()), how)
    _require_text(pa.chunked_array([[]], pa.string()), how)
    assert not caplog.records
    untrained: Any = How(grammar, None)
    _require_text(empty, untrained)
    assert "all 3 captions that the untrained model writes are empty" in caplog.text


def test_what_was_not_learnt_is_said() -> None:
    assert nothing_learnt(None, 0.3) is None
    low = nothing_learnt(None, 0.006)
    assert low is not None and "0.60% are right" in low
    both = nothing_learnt("the training loss began at 3", 0.006)
    assert both is not None and "began at 3, and of the tokens" in both
    assert "finetune.learning_rate" in both


@pytest.mark.parametrize(
    ("first", "losses", "nothing"),
    [
        (3.0, [3.0], True),
        (3.0, [2.9], False),
        (3.0, [1.0, 0.99], False),  # all of it in the first epoch
        (3.0, [2.95, 2.6], False),
        (3.3, [3.0, 2.99, 3.01], True),  # a first batch that was harder than the others
        (2.7, [3.0, 2.99, 3.01], True),
        (3.0, [50.0, 20.0, 8.0], True),
    ],
)
def test_a_loss_that_does_not_fall_is_told_from_one_that_varies(
    first: float, losses: list[float], nothing: bool
) -> None:
    run: Any = SimpleNamespace(
        first_loss=first,
        steps=2 * len(losses),
        records=[SimpleNamespace(train_loss=loss) for loss in losses],
        chance_loss=None,
    )
    assert (TrainingRun.learnt_nothing(run) is not None) is nothing
    run.chance_loss = min(losses)
    assert "by chance" in str(TrainingRun.learnt_nothing(run))
    run.steps = 1
    assert TrainingRun.learnt_nothing(run) is None
