"""A kept adapter: written as it was trained, and refused beside another BLIP-2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from growth.grown_catalogue import ORIGIN, write_kept
from micro_blip2 import miniature, save
from peft import LoraConfig, get_peft_model
from trained_project import SEGMENTS, write_adapter

from compositional_prompts.captioner.decoding.grammar_file import GRAMMAR_FILE, write_grammar
from compositional_prompts.captioner.training.kept_adapter import keep_adapter
from compositional_prompts.files.digests import folder_digest
from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.results.kept_models import MODEL, KeptModelError, Origin


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip2") / "blip2"
    save(miniature("opt"), folder)
    return folder


def kept(folder: Path, origin: Origin, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Path:
    write_kept(folder, origin, {"a": True})
    write_adapter(miniature("opt").model, folder / MODEL, targets)
    write_grammar(SEGMENTS, folder / MODEL)
    return folder


def test_it_is_written_as_it_was_trained(blip2: Path, tmp_path: Path) -> None:
    training = {"parameters": {"total": 9, "trainable": 2}, "val_images": 7, "val_loss": {"min": 1}}
    origin = replace(ORIGIN, training=training, base=folder_digest(blip2))
    source = kept(tmp_path / "captioner", origin)
    metrics = keep_adapter(source, blip2, tmp_path / "adapter")
    written = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (source / MODEL).iterdir()}
    assert GRAMMAR_FILE in written
    # No loss of today: the one of then stands in its origin alone.
    assert metrics.keys() == {"mode", "origin", "train_images", "val_images", "parameters"}
    assert metrics["mode"] == "keep"
    assert metrics["origin"]["training"] == training


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "fc2"], "use_dora": True},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
        {"target_modules": ["embed_tokens", "language_projection"]},
        {"target_modules": ["patch_embedding"]},
    ],
)
def test_whatever_is_adapted_fits_its_own_model(
    config: dict[str, object], blip2: Path, tmp_path: Path
) -> None:
    source = tmp_path / "captioner"
    write_kept(source, ORIGIN, {})
    adapted = get_peft_model(miniature("opt").model, LoraConfig(r=3, **config))
    adapted.save_pretrained(str(source / MODEL))
    assert keep_adapter(source, blip2, tmp_path / "adapter")["mode"] == "keep"


def test_an_adapter_of_another_model_is_refused(blip2: Path, tmp_path: Path) -> None:
    source = kept(tmp_path / "captioner", ORIGIN)
    save(miniature("t5"), tmp_path / "t5")
    with pytest.raises(KeptModelError, match=r"another BLIP-2 than .+q_proj.+ it has none"):
        keep_adapter(source, tmp_path / "t5", tmp_path / "adapter")

    wider = kept(tmp_path / "wider", ORIGIN, ("fc1",))
    model = miniature("opt").model
    model.config.text_config.ffn_dim = 96
    model.config.save_pretrained(tmp_path / "other")
    with pytest.raises(KeptModelError, match=r"fc1\.lora_B.+\[64, 4\].+ it is \[96, 32\] there"):
        keep_adapter(wider, tmp_path / "other", tmp_path / "adapter")

    # Of the same shape, and trained otherwise: it would load, and write nonsense.
    known = kept(tmp_path / "known", replace(ORIGIN, base=folder_digest(blip2)))
    save(miniature("opt", seed=1), tmp_path / "retrained")
    with pytest.raises(KeptModelError, match="same shape but with other weights"):
        keep_adapter(known, tmp_path / "retrained", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_damaged_one_is_named(blip2: Path, tmp_path: Path) -> None:
    with pytest.raises(KeptModelError, match=r"finetune\.mode is keep, and .+model is missing"):
        keep_adapter(tmp_path / "nowhere", blip2, tmp_path / "adapter")
    source = kept(tmp_path / "captioner", ORIGIN)
    weights = source / MODEL / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(KeptModelError, match="not a whole safetensors file"):
        keep_adapter(source, blip2, tmp_path / "adapter")
    weights.unlink()
    with pytest.raises(KeptModelError, match=r"adapter_model\.safetensors is missing"):
        keep_adapter(source, blip2, tmp_path / "adapter")
    weights.write_bytes(whole)
    (source / MODEL / GRAMMAR_FILE).write_text("{")
    with pytest.raises(DamagedOutputError, match=r"grammar\.json is damaged"):
        keep_adapter(source, blip2, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
