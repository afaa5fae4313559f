"""``compositional-prompts export``: what lies in the folder, and that its card's code works."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from micro_blip2 import WORDS, miniature, save
from PIL import Image
from safetensors import safe_open
from trained_project import (
    BEAMS,
    SEGMENTS,
    TOKENS,
    Run,
    encoded,
    plain_captions,
    set_params,
    write_adapter,
)

from compositional_prompts.captioner.blip2_pretraining import train_tokenizer
from compositional_prompts.deployment import export as export_module

ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}
MODEL_FILES = {"config.json", "model.safetensors"}
COMMON_FILES = {
    "README.md",
    "generation_config.json",
    "grammar.json",
    "processor_config.json",
    "readable.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def card_code(folder: Path) -> str:
    """The Python of a card."""
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```", (folder / "README.md").read_text())
    assert "compositional_prompts" not in code
    return code


def run_code(code: str) -> list[str]:
    """Captions that a card's code gives in the working directory."""
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "card", "exec"), names)
    assert printed.getvalue() == f"{names['captions']}\n"
    return names["captions"]


def front_matter(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def our_captions(run: Run, photos: list[Path]) -> list[str]:
    status, out, err = run("caption", *photos, "--json", "--caption-only", "--no-grammar")
    assert status == 0, err
    return [json.loads(line)["caption"] for line in out.splitlines()]


def write_photos(folder: Path, count: int = 4) -> list[Path]:
    paths = [folder / "photo.jpg", *(folder / f"{number}.png" for number in range(1, count))]
    for seed, path in enumerate(paths):
        path.write_bytes(encoded(seed + 20, "JPEG" if path.suffix == ".jpg" else "PNG"))
    # One lies on its side, as cameras store them.
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(paths[-1]) as image:
        image.save(paths[-1], exif=exif)
    return paths


def without_image_token(root: Path) -> None:
    """Base and adapter as of an older checkpoint: nothing in it knows of an image token."""
    captioner = miniature("opt", seed=2)
    model: Any = captioner.model
    tokenizer = train_tokenizer(WORDS)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    base = root / "models" / "blip2"
    shutil.rmtree(base)
    save(captioner, base)
    tokenizer.save_pretrained(base)
    for name, keys in {
        "config.json": ("image_token_index", "num_query_tokens"),
        "processor_config.json": ("num_query_tokens",),
    }.items():
        document = json.loads((base / name).read_text())
        for key in keys:
            document.pop(key)
        (base / name).write_text(json.dumps(document))
    write_adapter(model, root / "models" / "blip2_lora", ["q_proj", "v_proj"])


def with_t5(root: Path) -> None:
    captioner = miniature("t5")
    shutil.rmtree(root / "models" / "blip2")
    save(captioner, root / "models" / "blip2")
    write_adapter(captioner.model, root / "models" / "blip2_lora", ["q", "v"])


@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize("kind", ["opt", "t5", "no image token"])
def test_the_cards_code_gives_our_captions(
    kind: str, merged: bool, own_project: Path, run: Run
) -> None:
    if kind != "opt":
        {"t5": with_t5, "no image token": without_image_token}[kind](own_project)
    photos = write_photos(own_project)
    wanted = our_captions(run, photos)
    assert len(set(wanted)) > 1
    status, out, err = run("export", "shared", *(["--merged"] if merged else []))
    assert (status, err) == (0, "")
    assert "shared" in out
    code = card_code(own_project / "shared")
    if merged:
        shutil.rmtree(own_project / "models")  # it needs no other
    assert run_code(code) == wanted[:1]
    several = code.replace('["photo.jpg"]', repr([str(path) for path in photos]))
    assert several != code
    assert run_code(several) == wanted


def test_sampling_and_greedy_settings_are_handed_on(own_project: Path, run: Run) -> None:
    sampling = {"temperature": 0.5, "top_k": 7, "top_p": 0.9}
    set_params(own_project / "params.yaml", infer={"num_beams": 1, "sampling": sampling})
    assert run("export", "sampled")[0] == 0
    settings = json.loads((own_project / "sampled" / "generation_config.json").read_text())
    assert settings.items() >= (sampling | {"do_sample": True, "num_beams": 1}).items()
    set_params(own_project / "params.yaml", infer={"sampling": None})
    photos = write_photos(own_project)
    assert run("export", "greedy")[0] == 0
    assert run_code(card_code(own_project / "greedy")) == plain_captions(
        own_project, photos[:1], num_beams=1
    )


@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
def test_what_lies_in_the_folder(merged: bool, own_project: Path, run: Run) -> None:
    assert run("export", "out/shared", *(["--merged"] if merged else []))[0] == 0
    folder = own_project / "out" / "shared"
    files = {path.name for path in folder.iterdir()}
    assert files == COMMON_FILES | (MODEL_FILES if merged else ADAPTER_FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["shared"]
    settings = json.loads((folder / "generation_config.json").read_text())
    assert (settings["num_beams"], settings["max_new_tokens"]) == (BEAMS, TOKENS)
    assert json.loads((folder / "grammar.json").read_text())["segments"] == SEGMENTS
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            assert any("lora_" in name for name in tensors.keys()) != merged  # noqa: SIM118
    text = "".join(path.read_text() for path in folder.glob("*.*") if path.suffix != ".safetensors")
    assert str(own_project) not in text


def test_an_exported_adapter_captions_here_too(own_project: Path, run: Run) -> None:
    photo, *_ = write_photos(own_project)
    wanted = our_captions(run, [photo])
    assert run("export", "shared")[0] == 0
    shutil.rmtree(own_project / "models" / "blip2_lora")
    status, out, _ = run("caption", photo, "--adapter", "shared", "--json")
    assert status == 0
    assert [json.loads(out)["caption"]] == wanted


def test_the_precision_of_merged_weights(own_project: Path, run: Run) -> None:
    set_params(own_project / "params.yaml", infer={"precision": "int4"}, base={"device": "cuda"})
    assert run("export", "half", "--merged")[0] == 0
    assert run("export", "whole", "--merged", "--precision", "float32")[0] == 0
    for name, dtype in (("half", torch.bfloat16), ("whole", torch.float32)):
        with safe_open(own_project / name / "model.safetensors", framework="pt") as tensors:
            assert tensors.get_tensor("language_projection.weight").dtype == dtype
        assert f"dtype={dtype}" in card_code(own_project / name)


def base_of(folder: Path) -> tuple[str, str | None]:
    config = json.loads((folder / "adapter_config.json").read_text())
    return config["base_model_name_or_path"], config["revision"]


def test_the_base_is_named_as_its_users_have_it(own_project: Path, run: Run) -> None:
    assert run("export", "local")[0] == 0
    assert base_of(own_project / "local") == ("models/blip2", None)
    assert "base_model" not in front_matter(own_project / "local")
    assert "--merged" in (own_project / "local" / "README.md").read_text()

    hub = {"source": "hub", "name": "Some/blip2", "revision": "abc123"}
    set_params(own_project / "params.yaml", weights={"blip2": hub})
    assert run("export", "hub")[0] == 0
    assert base_of(own_project / "hub") == ("Some/blip2", "abc123")
    assert 'base = "Some/blip2"' in card_code(own_project / "hub")
    assert 'revision="abc123"' in card_code(own_project / "hub")
    matter = front_matter(own_project / "hub")
    assert (matter["base_model"], matter["base_model_relation"]) == ("Some/blip2", "adapter")

    assert run("export", "other", "--base", "Other/blip2")[0] == 0
    assert base_of(own_project / "other") == ("Other/blip2", None)
    assert run("export", "folder", "--base", "../their/blip2")[0] == 0
    assert base_of(own_project / "folder") == ("../their/blip2", None)
    assert "base_model" not in front_matter(own_project / "folder")

    elsewhere = own_project.parent / "base"
    shutil.copytree(own_project / "models" / "blip2", elsewhere)
    set_params(own_project / "params.yaml", weights={"blip2": hub | {"source": "path"}})
    assert run("export", "absolute", "--blip2", elsewhere)[0] == 0
    assert base_of(own_project / "absolute") == ("base", None)


def test_a_folder_with_something_in_it_is_refused(own_project: Path, run: Run) -> None:
    folder = own_project / "shared"
    folder.mkdir()
    assert run("export", "shared")[0] == 0  # an empty one is as good as none
    (folder / "mine.txt").write_text("mine")
    status, _, err = run("export", "shared", "--merged")
    assert status == 2
    assert "shared is not empty" in err
    assert "--force" in err
    assert {"mine.txt", *ADAPTER_FILES} <= {path.name for path in folder.iterdir()}
    assert run("export", "shared", "--merged", "--force")[0] == 0
    assert {path.name for path in folder.iterdir()} == COMMON_FILES | MODEL_FILES
    status, _, err = run("export", "params.yaml", "--force")
    assert status == 2
    assert "params.yaml is a file" in err


def test_force_replaces_exports_only(own_project: Path, run: Run) -> None:
    before = sorted(own_project.rglob("*"))
    for name in (".", "models", "models/blip2", "data"):
        status, _, err = run("export", name, "--force")
        assert status == 2
        assert "no earlier export" in err
    assert sorted(own_project.rglob("*")) == before


def test_a_failure_leaves_what_was_there(
    own_project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("export", "out/old")[0] == 0
    before = {path: path.read_bytes() for path in (own_project / "out" / "old").iterdir()}

    def fail(*_: Any) -> None:
        raise ValueError("no card today")

    monkeypatch.setattr(export_module, "write_card", fail)
    for name in ("old", "new"):
        status, _, err = run("export", f"out/{name}", "--force", "--merged")
        assert (status, err) == (2, "compositional-prompts: no card today\n")
    assert [path.name for path in (own_project / "out").iterdir()] == ["old"]
    assert {path: path.read_bytes() for path in (own_project / "out" / "old").iterdir()} == before


def test_a_path_moved_in_dvc_yaml_is_moved(own_project: Path, run: Run) -> None:
    pipeline = (own_project / "dvc.yaml").read_text()
    for old, new in (("metrics/scores.json", "metrics/s.json"), ("models/blip2_lora", "tuned")):
        shutil.move(own_project / old, own_project / new)
        pipeline = pipeline.replace(old, new)
    (own_project / "dvc.yaml").write_text(pipeline)
    assert run("export", "shared")[0] == 0
    (own_project / "metrics/s.json").unlink()
    status, _, error = run("export", "again")
    assert status == 2
    assert "metrics/s.json is missing. Run `dvc repro score` or" in error


def test_a_stage_without_the_argument_is_named(own_project: Path, run: Run) -> None:
    pipeline = (own_project / "dvc.yaml").read_text()
    (own_project / "dvc.yaml").write_text(pipeline.replace("--adapter models", "--lora models"))
    status, _, error = run("export", "shared")
    assert status == 2
    assert "dvc.yaml: the stage finetune has no argument --adapter." in error


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("metrics/scores.json", "metrics/scores.json is missing. Run `dvc repro score` or"),
        ("models/blip2_lora/adapter_config.json", "`dvc repro finetune` or `dvc pull"),
        ("models/blip2/config.json", "`dvc repro weights` or `dvc pull models/blip2`"),
    ],
)
def test_what_is_missing_is_named(missing: str, named: str, own_project: Path, run: Run) -> None:
    (own_project / missing).unlink()
    status, _, err = run("export", "shared")
    assert status == 2
    assert named in err
    assert not (own_project / "shared").exists()


def test_an_adapter_that_does_not_fit_is_found(own_project: Path, run: Run) -> None:
    write_adapter(miniature("t5").model, own_project / "models" / "blip2_lora", ["q", "v"])
    status, _, err = run("export", "shared")
    assert status == 2
    assert err.startswith("compositional-prompts: ")
    assert not (own_project / "shared").exists()
