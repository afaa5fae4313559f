"""LoRA fine-tuning on cached features."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from curve_files import curve_rows
from memory_inputs import MemoryInputs
from micro_blip2 import QUERIES, WORDS, miniature, save
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration

from compositional_prompts.captioner.decoding.caption_generation import generate_captions
from compositional_prompts.captioner.decoding.grammar_file import read_grammar
from compositional_prompts.captioner.model.blip2_model import Captioner, load_captioner
from compositional_prompts.captioner.model.caption_tokens import tokenize_captions
from compositional_prompts.captioner.model.forward import caption_logits, caption_loss
from compositional_prompts.captioner.model.lora import add_adapter, count_parameters, load_adapter
from compositional_prompts.captioner.parameters import Finetune, Lora
from compositional_prompts.captioner.training import caption_trainer
from compositional_prompts.captioner.training.caption_batches import CaptionPairs
from compositional_prompts.captioner.training.caption_room import require_room
from compositional_prompts.captioner.training.caption_trainer import LAST, finetune
from compositional_prompts.compute.training.training_run import TrainingError
from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.prompt.template import PromptTemplate

CPU = torch.device("cpu")


def lora(**changes) -> Lora:
    values = {
        "r": 8,
        "alpha": 16,
        "dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": [],
        "alpha_pattern": [],
    }
    return Lora(**(values | changes))


def settings(**changes) -> Finetune:
    values = {
        "mode": "train",
        "target": "enhanced",
        "seed": None,
        "lora": lora(),
        "epochs": 3,
        "precision": "float32",
        "batch_size": 4,
        "gradient_accumulation": 1,
        "gradient_checkpointing": False,
        "compile": False,
        "learning_rate": 0.01,
        "schedule": "linear",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": None,
        "label_smoothing": 0.0,
        "augment": False,
        "max_tokens": 60,
        "train_images": None,
        "caption_every": None,
        "caption_images": 4,
        "best_metric": "val_loss",
        "early_stopping": None,
    }
    return Finetune(**(values | changes))


IMAGE_IDS = [f"image-{number}" for number in range(12)]


@pytest.fixture
def store() -> MemoryInputs:
    features = np.random.default_rng(5).normal(size=(12, QUERIES, 32)).astype(np.float16)
    return MemoryInputs(IMAGE_IDS, torch.from_numpy(features))


def without_dropout(captioner: Captioner) -> Captioner:
    for module in captioner.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return captioner


def captions_of(captioner, store, pairs, num_beams=1, max_new_tokens=40) -> list[str]:
    queries = store.read(store.positions(pairs.image_ids))
    return generate_captions(captioner, queries, num_beams=num_beams, max_new_tokens=max_new_tokens)


TRAIN = CaptionPairs([f"image-{n}" for n in range(8)], [WORDS[n % 2] for n in range(8)])
VAL = CaptionPairs([f"image-{n}" for n in range(8, 12)], [WORDS[n % 2] for n in range(4)])


OPTIONS = ("val_inputs", "accelerator", "checkpoints")
PAIRS = [("Canvas", "Sandals"), ("Suede", "Boots"), ("Canvas", "Sandals")]
COLORS = {"color": ["white", "black"]}


def run(tmp_path, store, name="lora", captioner=None, train=TRAIN, val=VAL, seed=1, **changes):
    captioner = captioner or miniature("opt")
    options = {key: changes.pop(key) for key in OPTIONS if key in changes}
    outcome = finetune(
        captioner,
        store,
        train,
        val,
        settings(**changes),
        seed=seed,
        adapter=tmp_path / name,
        curve=tmp_path / f"{name}-curve",
        pairs=PAIRS,
        words=COLORS,
        **options,
    )
    return captioner, outcome.metrics


def curve_of(tmp_path, name="lora") -> list[dict[str, str]]:
    return curve_rows(tmp_path / f"{name}-curve")


def tensors_of(tmp_path, name="lora") -> dict[str, torch.Tensor]:
    return load_file(tmp_path / name / "adapter_model.safetensors")


def test_it_learns_the_captions_by_heart(tmp_path, store) -> None:
    # The base is random and frozen: attention alone could not learn what words look like.
    feed_forward = [f"layers.{layer}.fc{part}" for layer in (0, 1) for part in (1, 2)]
    everywhere = lora(r=16, alpha=32, target_modules=["q_proj", "v_proj", *feed_forward])
    captioner, metrics = run(
        tmp_path, store, train=TRAIN, val=TRAIN, epochs=60, learning_rate=0.02, lora=everywhere
    )
    # Not near zero: the frozen output embeddings are short, and logits cannot exceed their length.
    assert metrics["train_loss"]["min"] < 0.5 * metrics["train_loss"]["max"]
    assert metrics["val_token_accuracy"] > 0.9
    # The first token tells the captions apart: only the image says which of them is wanted.
    captioner.model.eval()
    assert captions_of(captioner, store, TRAIN) == TRAIN.captions


def test_only_the_adapter_changes(tmp_path, store) -> None:
    captioner = miniature("opt")
    before = {name: value.clone() for name, value in captioner.model.state_dict().items()}
    run(tmp_path, store, captioner=captioner)
    after = captioner.model.state_dict()
    for name, value in before.items():
        now = after.get(name, after.get(name.replace("_proj.", "_proj.base_layer.")))
        assert torch.equal(now, value), name


def test_the_same_seed_gives_the_same_adapter(tmp_path, store) -> None:
    dropout = {"lora": lora(dropout=0.1)}
    run(tmp_path, store, "first", **dropout)
    run(tmp_path, store, "second", **dropout)
    run(tmp_path, store, "other", seed=2, **dropout)
    first, second, other = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes()
        for name in ("first", "second", "other")
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize("own_dropout", [0.0, 0.1])
def test_threads_that_share_a_batch_change_no_bit(
    tmp_path, store, own_dropout, monkeypatch
) -> None:
    """Also not where the language model drops by itself, as published ones do: then none do."""
    shared = []
    in_parts = caption_trainer.in_parts
    monkeypatch.setattr(
        caption_trainer, "in_parts", lambda *given: shared.append(1) or in_parts(*given)
    )
    before = torch.get_num_threads()
    try:
        for number, threads in enumerate((1, 2, 2)):
            torch.set_num_threads(threads)
            captioner = miniature("opt")
            for module in captioner.model.language_model.modules():
                if isinstance(getattr(module, "dropout", None), float):
                    module.dropout = own_dropout
            run(tmp_path, store, f"{number}", captioner=captioner, lora=lora(dropout=0.1))
    finally:
        torch.set_num_threads(before)
    assert bool(shared) == (not own_dropout)
    in_turn, first, again = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "012"
    )
    assert first == again
    # Where nothing is shared, torch's own two threads add in another order than one.
    assert own_dropout or in_turn == first


def test_parts_of_a_batch_are_the_whole_of_it(tmp_path, store, monkeypatch) -> None:
    """Without dropout the same steps, but for the order of sums."""
    captioner = without_dropout(miniature("opt"))
    _, parted = run(tmp_path, store, "parted", captioner=captioner)
    monkeypatch.setattr(caption_trainer.SideBySide, "of", lambda *_: None)
    captioner = without_dropout(miniature("opt"))
    _, whole = run(tmp_path, store, "whole", captioner=captioner)
    assert parted["train_loss"]["mean"] == pytest.approx(whole["train_loss"]["mean"], rel=1e-5)
    assert parted["val_token_accuracy"] == whole["val_token_accuracy"]
    one, other = tensors_of(tmp_path, "parted"), tensors_of(tmp_path, "whole")
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-5)


def test_best_and_last_are_kept(tmp_path, store) -> None:
    _, metrics = run(tmp_path, store, epochs=4)
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    assert (tmp_path / "lora" / LAST / "adapter_model.safetensors").is_file()
    curve = curve_of(tmp_path)
    assert [int(row["epoch"]) for row in curve] == [1, 2, 3, 4]
    losses = [float(row["val_loss"]) for row in curve]
    assert losses[metrics["best_epoch"] - 1] == min(losses)
    assert metrics["val_loss"]["min"] == pytest.approx(min(losses), abs=1e-4)
    assert metrics["val_loss"]["mean"] == pytest.approx(sum(losses) / 4, abs=1e-4)


def test_early_stopping(tmp_path, store) -> None:
    # A learning rate that can only do harm after the first epochs.
    _, metrics = run(tmp_path, store, epochs=50, learning_rate=1.0, early_stopping=2)
    assert metrics["epochs"] < 50
    assert metrics["epochs"] - metrics["best_epoch"] == 2


@pytest.mark.parametrize(("rate", "nothing"), [(0.05, False), (1e-12, True)])
def test_whether_anything_was_learnt_is_said(tmp_path, store, rate, nothing, caplog) -> None:
    _, metrics = run(tmp_path, store, epochs=3, learning_rate=rate)
    said = metrics.get("warnings", [])
    assert len(said) == nothing
    assert (caplog.text.count("has learnt nothing") > 0) is nothing
    if nothing:
        assert "The captioner has learnt nothing: " in said[0]


def test_an_adapter_with_a_number_that_is_none_is_named(tmp_path, store) -> None:
    save(miniature("opt"), tmp_path / "blip2")
    captioner = load_captioner(tmp_path / "blip2", CPU)
    run(tmp_path, store, captioner=captioner, epochs=1)
    weights = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = min(tensors)
    tensors[name].view(-1)[1] = torch.nan
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(DamagedOutputError, match=rf"{weights} is damaged \(its tensor {name}"):
        load_adapter(load_captioner(tmp_path / "blip2", CPU), tmp_path / "lora")


def test_validation_loss_is_a_mean_over_tokens(tmp_path, store) -> None:
    pairs = CaptionPairs([f"image-{n}" for n in range(3)], WORDS)
    captioner, metrics = run(tmp_path, store, val=pairs, epochs=1, batch_size=2)
    tokens = tokenize_captions(captioner, WORDS, 60)
    captioner.model.eval()
    with torch.inference_mode():
        expected = caption_loss(*caption_logits(captioner.model, store.read(np.arange(3)), tokens))
    assert metrics["val_loss"]["min"] == pytest.approx(float(expected), rel=1e-5)


def test_a_loaded_adapter_gives_the_trained_models_captions(tmp_path, store) -> None:
    save(miniature("opt"), tmp_path / "blip2")
    captioner = load_captioner(tmp_path / "blip2", CPU)
    trained, _ = run(tmp_path, store, captioner=captioner, epochs=8, learning_rate=0.05)
    trained.model.eval()
    # The last epoch's adapter is what the trained model holds.
    reloaded = load_captioner(tmp_path / "blip2", CPU)
    untrained = captions_of(reloaded, store, VAL, 3, 20)
    load_adapter(reloaded, tmp_path / "lora" / LAST)
    captions = captions_of(reloaded, store, VAL, 3, 20)
    assert captions == captions_of(trained, store, VAL, 3, 20)
    assert captions != untrained
    plain = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "blip2")
    assert PeftModel.from_pretrained(plain, tmp_path / "lora") is not None


def test_nothing_to_train_on_is_an_error(tmp_path, store) -> None:
    with pytest.raises(ValueError, match="No training images"):
        run(tmp_path, store, train=CaptionPairs([], []))
    with pytest.raises(ValueError, match="No validation images"):
        run(tmp_path, store, val=CaptionPairs([], []))
    assert not (tmp_path / "lora").exists()


def test_an_adapter_before_the_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="before the cached features"):
        add_adapter(miniature("opt"), lora(target_modules=["query", "v_proj"]))


def test_parameter_counts_of_the_report() -> None:
    config = Blip2Config(
        text_config={
            "model_type": "opt",
            "vocab_size": 50272,
            "hidden_size": 2560,
            "num_hidden_layers": 32,
            "ffn_dim": 10240,
            "num_attention_heads": 32,
            "word_embed_proj_dim": 2560,
        },
        num_query_tokens=32,
    )
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(config)
    model.requires_grad_(False)
    captioner = Captioner(model, processor=None)
    adapted = add_adapter(captioner, lora(r=16, alpha=32, dropout=0.1, target_modules=None))
    assert count_parameters(captioner, adapted) == {"total": 3_749_922_816, "trainable": 5_242_880}


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_accumulated_batches_are_one_large_batch(tmp_path, store, family) -> None:
    # Captions of different lengths: a mean of the batches' means would be another loss.
    train = CaptionPairs(IMAGE_IDS[:8], [WORDS[n % 3] for n in range(8)])
    val = CaptionPairs(IMAGE_IDS[8:], [WORDS[n % 3] for n in range(4)])
    options = {"train": train, "val": val, "epochs": 2, "lora": lora(target_modules=None)}
    # All of the epoch in one step, since batches differ in what they hold.
    for name, batch_size, accumulation in (("large", 8, 1), ("small", 2, 4)):
        captioner = without_dropout(miniature(family))
        run(
            tmp_path,
            store,
            name,
            captioner=captioner,
            batch_size=batch_size,
            gradient_accumulation=accumulation,
            **options,
        )
    for large, small in zip(curve_of(tmp_path, "large"), curve_of(tmp_path, "small"), strict=True):
        assert float(small["train_loss"]) == pytest.approx(float(large["train_loss"]), abs=1e-4)
        assert float(small["val_loss"]) == pytest.approx(float(large["val_loss"]), abs=1e-4)
    large, small = (tensors_of(tmp_path, name) for name in ("large", "small"))
    for name, tensor in large.items():
        torch.testing.assert_close(small[name], tensor, rtol=1e-3, atol=1e-4)


def test_steps_and_learning_rates(tmp_path, store) -> None:
    options = {"batch_size": 2, "gradient_accumulation": 3, "epochs": 4, "learning_rate": 0.008}
    # Four batches an epoch: a step of three and one of one.
    for schedule, expected in {
        "linear": [1 - step / 8 for step in (1, 3, 5, 7)],
        "cosine": [(1 + math.cos(math.pi * step / 8)) / 2 for step in (1, 3, 5, 7)],
        "constant": [1.0] * 4,
    }.items():
        _, metrics = run(tmp_path, store, schedule, schedule=schedule, **options)
        assert metrics["steps"] == 8
        rates = [float(row["learning_rate"]) for row in curve_of(tmp_path, schedule)]
        assert rates == pytest.approx([0.008 * share for share in expected], rel=1e-3)
    run(tmp_path, store, "warm", schedule="constant", warmup_ratio=0.5, **options)
    rates = [float(row["learning_rate"]) for row in curve_of(tmp_path, "warm")]
    assert rates == pytest.approx([0.008 * share for share in (0.25, 0.75, 1.0, 1.0)], rel=1e-3)


def test_gradients_are_cut_to_the_largest_norm(tmp_path, store) -> None:
    limits = {"free": None, "far": 1e6, "cut": 1e-3}
    # One step of plain descent would show the norm; AdamW's first step hides it, its second not.
    for name, limit in limits.items():
        run(tmp_path, store, name, epochs=2, max_grad_norm=limit)
    free, far, cut = (tensors_of(tmp_path, name) for name in limits)
    assert all(torch.equal(free[name], far[name]) for name in free)
    assert any(not torch.equal(free[name], cut[name]) for name in free)
    assert float(curve_of(tmp_path, "free")[0]["grad_norm"]) > 0.01


def test_gradient_checkpointing_changes_nothing(tmp_path, store) -> None:
    dropout = {"lora": lora(dropout=0.3)}
    run(tmp_path, store, "kept", **dropout)
    captioner, _ = run(tmp_path, store, "again", gradient_checkpointing=True, **dropout)
    assert not captioner.model.language_model.is_gradient_checkpointing
    kept, again = tensors_of(tmp_path, "kept"), tensors_of(tmp_path, "again")
    for name, tensor in kept.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "lora_only", "target_modules": ["k_proj", "out_proj"]},
        {"target_modules": ["language_projection", "k_proj"]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_adapters_load_with_plain_peft(tmp_path, store, changes) -> None:
    save(miniature("opt"), tmp_path / "blip2")
    captioner = load_captioner(tmp_path / "blip2", CPU)
    run(tmp_path, store, captioner=captioner, lora=lora(**changes), learning_rate=0.05)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert str(tmp_path) not in json.dumps(config)
    assert config["target_modules"] == sorted(config["target_modules"])
    for name, value in changes.items():
        assert config[name] == (sorted(value) if name == "target_modules" else value)
    check_loading(captioner, store, tmp_path)


def check_loading(captioner, store, tmp_path) -> None:
    """The trained model's logits against those of the adapter on disk, loaded with PEFT alone."""
    plain = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "blip2")
    loaded = PeftModel.from_pretrained(plain, tmp_path / "lora" / LAST)
    captioner.model.eval()
    tokens = tokenize_captions(captioner, VAL.captions, 60)
    queries = store.read(store.positions(VAL.image_ids))
    with torch.no_grad():
        expected, labels = caption_logits(captioner.model, queries, tokens)
        found, _ = caption_logits(loaded.eval().get_base_model(), queries, tokens)
    torch.testing.assert_close(found, expected)
    assert len(labels) == 4


def test_overlapping_patterns_mean_the_same_trained_and_loaded(tmp_path, store) -> None:
    save(miniature("opt"), tmp_path / "blip2")
    captioner = load_captioner(tmp_path / "blip2", CPU)
    first, rest = r"layers.0.self_attn.v_proj", "v_proj"  # PEFT sorts "l" before "v",
    narrow, wide = "v_proj", ".*"  # and "." before "v"
    patterns = {
        "rank_pattern": [{"modules": narrow, "r": 3}, {"modules": wide, "r": 6}],
        "alpha_pattern": [{"modules": first, "alpha": 4}, {"modules": rest, "alpha": 64}],
    }
    run(tmp_path, store, captioner=captioner, lora=lora(**patterns), learning_rate=0.05)
    ranks = {
        name: tensor.shape[0] for name, tensor in tensors_of(tmp_path).items() if "lora_A" in name
    }
    assert set(ranks.values()) == {3, 6}
    assert all(("v_proj" in name) == (rank == 3) for name, rank in ranks.items())
    check_loading(captioner, store, tmp_path)


@pytest.mark.parametrize("modules", [["v_proj", "layers.0.self_attn.v_proj"], ["v_porj"]])
def test_a_pattern_without_effect_is_refused(modules) -> None:
    patterns = [{"modules": name, "alpha": 5} for name in modules]
    with pytest.raises(ValueError, match=rf"alpha_pattern: '{modules[-1]}' has no effect"):
        add_adapter(miniature("opt"), lora(alpha_pattern=patterns))


def test_a_pattern_is_a_regular_expression() -> None:
    with pytest.raises(ValueError, match="must be a regular expression"):
        lora(rank_pattern=[{"modules": "v_proj(", "r": 5}])


def test_the_default_modules_of_t5(tmp_path, store) -> None:
    captioner = miniature("t5")
    adapted = add_adapter(captioner, lora(target_modules=None))
    names = {
        name.split(".lora_")[0].split(".")[-1] for name in adapted.state_dict() if "lora_" in name
    }
    assert names == {"q", "v"}


def test_bleu_of_some_captions_chooses_the_epoch(tmp_path, store, monkeypatch) -> None:
    asked: list[tuple[list[str], list[str]]] = []
    scores = iter([0.1, 0.7, 0.7, 0.2, 0.6])

    def score(captions, references, tokenize) -> np.ndarray:
        asked.append((list(captions), list(references)))
        return np.array([next(scores)])

    monkeypatch.setattr(caption_trainer, "sentence_bleu", score)
    _, metrics = run(
        tmp_path,
        store,
        epochs=9,
        batch_size=2,
        caption_every=2,
        caption_images=3,
        best_metric="val_bleu",
    )
    bleu = [row["val_bleu"] for row in curve_of(tmp_path)]
    # The last epoch is always measured.
    assert bleu == ["", "0.1", "", "0.7", "", "0.7", "", "0.2", "0.6"]
    assert metrics["best_epoch"] == 4
    assert metrics["best_metric"] == "val_bleu"
    assert metrics["val_bleu"] == 0.7
    assert all(len(captions) == len(references) == 3 for captions, references in asked)
    assert all(references == asked[0][1] for _, references in asked)
    assert set(asked[0][1]) <= set(VAL.captions)


def test_early_stopping_waits_for_a_measurement(tmp_path, store, monkeypatch) -> None:
    scores = iter([0.5, 0.4, 0.3])
    monkeypatch.setattr(caption_trainer, "sentence_bleu", lambda *_: np.array([next(scores)]))
    _, metrics = run(
        tmp_path,
        store,
        epochs=20,
        caption_every=3,
        best_metric="val_bleu",
        early_stopping=4,
    )
    # Epoch 3 is best; 6 is three epochs later, 9 six.
    assert metrics["epochs"] == 9
    assert metrics["best_epoch"] == 3


def test_captioning_on_the_way_does_not_disturb_training(tmp_path, store) -> None:
    dropout = {"lora": lora(dropout=0.2)}
    run(tmp_path, store, "quiet", **dropout)
    run(tmp_path, store, "asked", caption_every=1, **dropout)
    assert (tmp_path / "quiet/last/adapter_model.safetensors").read_bytes() == (
        tmp_path / "asked/last/adapter_model.safetensors"
    ).read_bytes()


def test_a_loss_that_is_no_number_is_an_error(tmp_path, store) -> None:
    features = torch.full((12, QUERIES, 32), float("nan"))
    with pytest.raises(TrainingError, match=r"nan in epoch 1.*learning_rate"):
        run(tmp_path, MemoryInputs(IMAGE_IDS, features))
    assert not (tmp_path / "lora").exists()


def test_the_epoch_reaches_augmentation(tmp_path, store) -> None:
    run(tmp_path, store, val_inputs=MemoryInputs(IMAGE_IDS, store.read(np.arange(12))))
    assert store.epochs == [1, 2, 3]


def test_an_adapter_before_the_queries_learns_from_pixels(tmp_path) -> None:
    generator = torch.Generator().manual_seed(2)
    pixels = MemoryInputs(IMAGE_IDS, torch.randn(12, 3, 16, 16, generator=generator))
    _, metrics = run(tmp_path, pixels, lora=lora(target_modules=["qkv", "query", "v_proj"]))
    trained = [name for name, tensor in tensors_of(tmp_path).items() if tensor.abs().sum() > 0]
    for part in ("vision_model", "qformer", "language_model"):
        assert any(part in name and "lora_B" in name for name in trained)
    assert metrics["train_loss"]["min"] < metrics["train_loss"]["max"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_with_a_float32_adapter(tmp_path, store, precision) -> None:
    full = miniature("opt")
    full.model.to(getattr(torch, precision))
    captioner = Captioner(full.model, full.processor, precision)
    _, metrics = run(
        tmp_path, store, captioner=captioner, precision=precision, max_grad_norm=1.0, epochs=6
    )
    _, expected = run(tmp_path, store, "full", max_grad_norm=1.0, epochs=6)
    assert {tensor.dtype for tensor in tensors_of(tmp_path).values()} == {torch.float32}
    for key in ("min", "max"):
        assert metrics["train_loss"][key] == pytest.approx(expected["train_loss"][key], rel=2e-2)


def test_the_grammar_lies_beside_the_adapter(tmp_path, store) -> None:
    run(tmp_path, store, epochs=1)
    assert read_grammar(tmp_path / "lora") == PromptTemplate(["color"]).alternatives(PAIRS, COLORS)
    assert not list((tmp_path / "lora").rglob("README.md"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: g++")
def test_a_compiled_model_computes_the_same_losses(tmp_path, store) -> None:
    def one_layer() -> Captioner:
        captioner = without_dropout(miniature())
        decoder = captioner.model.language_model.model.decoder
        decoder.layers = decoder.layers[:1]
        return captioner

    # Compiling takes ten seconds a variant: captions of one length, and layers, need fewer.
    train = CaptionPairs(IMAGE_IDS[:8], WORDS[:1] * 8)
    options = {"train": train, "val": train, "epochs": 1, "batch_size": 8}
    _, eager = run(tmp_path, store, captioner=one_layer(), **options)
    captioner, compiled = run(
        tmp_path, store, "compiled", captioner=one_layer(), compile=True, **options
    )
    for name in ("train_loss", "val_loss"):
        assert compiled[name]["min"] == pytest.approx(eager[name]["min"], abs=1e-5)
    plain, found = tensors_of(tmp_path), tensors_of(tmp_path, "compiled")
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
    layers = captioner.model.language_model.model.decoder.layers
    assert all(layer._compiled_call_impl is None for layer in layers)


def test_captions_that_have_no_room_are_refused_before_training(
    store: MemoryInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = miniature("opt")
    tokens = tokenize_captions(captioner, WORDS, max_tokens=60)
    longest = int(tokens.mask.sum(1).max())
    config = captioner.model.config

    def run(positions: int, **changes: Any) -> None:
        monkeypatch.setattr(config.text_config, "max_position_embeddings", positions)
        require_room(captioner, longest, settings(**changes))

    run(QUERIES + longest)
    with pytest.raises(TrainingError, match=rf"has {longest} tokens, .*room for {longest - 1} "):
        run(QUERIES + longest - 1)
    run(QUERIES + 60, caption_every=1)
    with pytest.raises(TrainingError, match=r"^finetune\.max_tokens is 60, .* lower it to 59 "):
        run(QUERIES + 59, caption_every=1)
    monkeypatch.setattr(config, "use_decoder_only_language_model", False)
    run(1, caption_every=1)


def test_room_is_asked_for_before_anything_is_trained(
    store: MemoryInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = miniature("opt")
    monkeypatch.setattr(captioner.model.config.text_config, "max_position_embeddings", QUERIES + 59)
    monkeypatch.setattr(caption_trainer, "_CaptionRun", None)
    captions = [WORDS[number % 3] for number in range(4)]
    pairs = CaptionPairs(IMAGE_IDS[:4], captions)
    with pytest.raises(TrainingError, match=r"^finetune\.max_tokens is 60"):
        finetune(
            captioner,
            store,
            pairs,
            pairs,
            settings(caption_every=1),
            pairs=[("Canvas", "Sandals")],
            words={"color": ["white"]},
            seed=0,
            adapter=tmp_path / "lora",
            curve=tmp_path / "curve",
        )
