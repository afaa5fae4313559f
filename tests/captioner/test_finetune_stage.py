"""The stage finetune, alone and in two processes that train together."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
import yaml
from curve_files import curve_rows
from finetune_run import train
from killed_runs import script_environment
from micro_blip2 import QUERIES, miniature, save
from safetensors.torch import load_file

from compositional_prompts.captioner.decoding.grammar_file import read_grammar
from compositional_prompts.captioner.features.feature_shards import write_features
from compositional_prompts.captioner.features.feature_store import FeatureStore
from compositional_prompts.captioner.model.blip2_model import load_captioner
from compositional_prompts.captioner.model.caption_tokens import tokenize_captions
from compositional_prompts.captioner.model.forward import caption_logits, caption_loss
from compositional_prompts.captioner.model.lora import load_adapter
from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLITS
from compositional_prompts.clip.vector_tables import word_embeddings
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.tables import write_table

PHRASES = [
    ("Canvas", "Sandals", "white"),
    ("Suede", "Boots", "black"),
    ("Patent_Leather", "Ankle.Boots", "red"),
]
# As base.launcher has it. (--multi_gpu starts processes; with --cpu only MPI would.)
TOGETHER = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
    *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "--main_process_port", "0"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory, project_root) -> Path:
    """What the stage reads, of 23 training and 5 validation images."""
    root = tmp_path_factory.mktemp("project")
    ids = [f"image-{number:02}" for number in range(28)]
    features = torch.from_numpy(np.random.default_rng(9).normal(size=(28, QUERIES, 32)))
    write_features([(ids, features.half())], root / "features")
    save(miniature("opt"), root / "blip2")
    told = [PHRASES[number % 3] for number in range(28)]
    rows = [
        {
            "image_id": image_id,
            "attribute": attribute,
            "object": name,
            "original_prompt": f"{attribute}_{name}",
            "enhanced_prompt": f"A photo of {attribute}_{name} with {color} color",
            "color": color,
            "color_best": color,
            "color_score": 0.3,
            "color_margin": 0.1,
            "color_scores": [0.3],
            "color_pixel": None,
        }
        for image_id, (attribute, name, color) in zip(ids, told, strict=True)
    ]
    schema = enhanced_prompts_schema(("color",))
    write_table(pa.Table.from_pylist(rows, schema), root / "prompts.parquet", schema)
    splits = [
        {"image_id": i, "product_id": i, "caption_split": "train" if row < 23 else "val"}
        for row, i in enumerate(ids)
    ]
    write_table(pa.Table.from_pylist(splits, SPLITS), root / "splits.parquet", SPLITS)
    pairs = [
        {"attribute": a, "object": o, "split": "train", "seen": True, "images": 5}
        for a, o, _ in sorted(PHRASES)
    ]
    write_table(pa.Table.from_pylist(pairs, PAIRS), root / "pairs.parquet", PAIRS)
    words = [{"group": "color", "word": w, "embedding": [1.0, 0.0]} for _, _, w in PHRASES]
    schema = word_embeddings(2)
    write_table(pa.Table.from_pylist(words, schema), root / "words.parquet", schema)
    document = yaml.safe_load((project_root / "params.yaml").read_text())
    document["finetune"] |= {
        "precision": "float32",  # on every processor, so that tolerances hold
        "epochs": 3,
        "batch_size": 5,  # not divisible by two, and the last of an epoch has three
        "gradient_accumulation": 2,
        "learning_rate": 0.01,
        "caption_every": 2,
        "caption_images": 4,
    }
    document["finetune"]["lora"]["dropout"] = 0.0
    (root / "params.yaml").write_text(yaml.safe_dump(document))
    return root


def without_dropout(project: Path) -> None:
    path = project / "blip2" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["dropout"] = 0.0
    path.write_text(json.dumps(config))


def arguments(project: Path, out: Path) -> list[str]:
    read = {
        "features": "features",
        "catalog": "catalog",
        "prompts": "prompts.parquet",
        "splits": "splits.parquet",
        "pairs": "pairs.parquet",
        "words": "words.parquet",
        "blip2": "blip2",
        "source": "source",
        "params": "params.yaml",
    }
    written = {
        "adapter": "lora",
        "metrics": "metrics.json",
        "curve": "curve",
    }
    named = {name: project / path for name, path in read.items()}
    named |= {name: out / path for name, path in written.items()}
    return [part for name, path in named.items() for part in (f"--{name}", str(path))]


def curve_of(out: Path) -> list[dict[str, str]]:
    return curve_rows(out / "curve")


def loss_of(project: Path, out: Path) -> float:
    """Mean loss of all images with the last adapter, which curves give to 4 decimals only."""
    captioner = load_captioner(project / "blip2", torch.device("cpu"))
    load_adapter(captioner, out / "lora" / "last")
    table = pl.read_parquet(project / "prompts.parquet")
    store = FeatureStore(project / "features")
    queries = store.read(store.positions(table["image_id"].to_list()))
    tokens = tokenize_captions(captioner, table["enhanced_prompt"].to_list(), 64)
    with torch.no_grad():
        return float(caption_loss(*caption_logits(captioner.model, queries, tokens)))


@pytest.fixture(scope="module")
def alone(project, project_root, tmp_path_factory) -> Path:
    """What the stage writes in one process."""
    without_dropout(project)
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr(sys, "argv", ["finetune.py", *arguments(project, out)])
        runpy.run_path(str(project_root / "stages" / "finetune.py"), run_name="__main__")
    return out


def test_the_stage_writes_what_it_says(project, alone) -> None:
    metrics = json.loads((alone / "metrics.json").read_text())
    assert metrics["train_images"] == 23
    assert metrics["val_images"] == 5
    assert metrics["steps"] == 9  # five batches are three steps
    assert metrics["parameters"]["trainable"] == 2 * 2 * 2 * 16 * 32
    share = metrics["parameters"]["trainable"] / metrics["parameters"]["total"]
    assert metrics["trainable_percent"] == pytest.approx(100 * share, abs=1e-4)
    assert [row["val_bleu"] != "" for row in curve_of(alone)] == [False, True, True]
    timing = json.loads((project / "timing/finetune.json").read_text())
    assert timing["rows"] == 3 * 23
    grammar = read_grammar(alone / "lora")
    assert grammar is not None
    choices = [set(segment) for segment in grammar if len(segment) > 1]
    assert choices[:2] == [
        {"Canvas", "Patent_Leather", "Suede"},
        {"Sandals", "Ankle.Boots", "Boots"},
    ]
    assert {"white", "black", "red", "an unspecified"} <= choices[2]
    config = json.loads((alone / "lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "blip2"
    assert not (project / "scratch" / "finetune").exists()


def test_two_processes_train_as_one(project, alone, project_root, tmp_path) -> None:
    done = subprocess.run(
        [*TOGETHER, str(project_root / "stages" / "finetune.py"), *arguments(project, tmp_path)],
        cwd=project,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes train together") == 1  # one of them logs
    one, two = (json.loads((out / "metrics.json").read_text()) for out in (alone, tmp_path))
    assert two["steps"] == one["steps"]
    for expected, found in zip(curve_of(alone), curve_of(tmp_path), strict=True):
        for name, value in expected.items():
            if value:
                assert float(found[name]) == pytest.approx(float(value), abs=1.1e-4), name
    assert loss_of(project, tmp_path) == pytest.approx(loss_of(project, alone), abs=1e-5)
    expected = load_file(alone / "lora" / "last" / "adapter_model.safetensors")
    found = load_file(tmp_path / "lora" / "last" / "adapter_model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
    assert read_grammar(tmp_path / "lora") == read_grammar(alone / "lora")


def test_sharing_gradients_or_the_model_gives_the_same_losses(tmp_path, project_root) -> None:
    script = Path(__file__).with_name("finetune_run.py")
    done = subprocess.run(
        [*TOGETHER, str(script), "together", str(tmp_path)],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    # Every layer of the language model is sharded by itself, and the whole ("").
    assert report == {"processes": 2, "sharded": ["", "0", "1"]}
    train(tmp_path / "alone", dropout=0.0)
    expected = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    tensors = load_file(tmp_path / "alone" / "lora" / "last" / "adapter_model.safetensors")
    for kind in ("ddp", "fsdp"):
        found = json.loads((tmp_path / kind / "metrics.json").read_text())
        for name in ("train_loss", "val_loss"):
            for key, loss in expected[name].items():
                assert found[name][key] == pytest.approx(loss, abs=1e-5), (kind, name, key)
        assert found["parameters"] == expected["parameters"]
        adapter = load_file(tmp_path / kind / "lora" / "last" / "adapter_model.safetensors")
        for name, tensor in tensors.items():
            torch.testing.assert_close(adapter[name], tensor, rtol=1e-3, atol=1e-5)
