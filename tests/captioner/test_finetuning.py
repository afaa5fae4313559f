"""LoRA fine-tuning on cached features."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from memory_inputs import MemoryInputs
from micro_blip2 import QUERIES, WORDS, miniature, save
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Blip2Config, Blip2ForConditionalGeneration

from compositional_prompts.captioner.adapters import add_adapter, count_parameters, load_adapter
from compositional_prompts.captioner.finetuning import LAST, finetune
from compositional_prompts.captioner.forward import caption_logits, caption_loss
from compositional_prompts.captioner.generation import generate_captions
from compositional_prompts.captioner.loading import Captioner, load_captioner
from compositional_prompts.captioner.tokens import tokenize_captions
from compositional_prompts.captioner.training import CaptionPairs
from compositional_prompts.params import Finetune, Lora

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
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    return Lora(**(values | changes))


def settings(**changes) -> Finetune:
    values = {
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


def captions_of(captioner, store, pairs, num_beams=1, max_new_tokens=40) -> list[str]:
    queries = store.read(store.positions(pairs.image_ids))
    return generate_captions(captioner, queries, num_beams=num_beams, max_new_tokens=max_new_tokens)


TRAIN = CaptionPairs([f"image-{n}" for n in range(8)], [WORDS[n % 2] for n in range(8)])
VAL = CaptionPairs([f"image-{n}" for n in range(8, 12)], [WORDS[n % 2] for n in range(4)])


OPTIONS = ("val_inputs", "accelerator", "checkpoints", "score_captions", "grammar", "after_step")


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
        curve=tmp_path / f"{name}.csv",
        **options,
    )
    return captioner, outcome.metrics


def curve_of(tmp_path, name="lora") -> list[dict[str, str]]:
    with (tmp_path / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


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
    _, metrics = run(tmp_path, store, epochs=50, learning_rate=3.0, early_stopping=2)
    assert metrics["epochs"] < 50
    assert metrics["epochs"] - metrics["best_epoch"] == 2


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
