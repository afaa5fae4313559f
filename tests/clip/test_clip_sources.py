"""Bringing a CLIP from a folder, by an open_clip name, or from the hub, without a connection."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import open_clip.factory
import open_clip.pretrained
import pytest
import torch
from hub_cache import COMMIT, mirror, offline
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from compositional_prompts.clip.clip_pretraining import MICRO_CONFIG, micro_clip
from compositional_prompts.clip.clip_sources import fetch_clip
from compositional_prompts.clip.embedding import embed_texts
from compositional_prompts.clip.open_clip_model import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_clip,
    save_clip,
)

CPU = torch.device("cpu")
NAME = "ViT-test-8"
REPOSITORY = "hf-hub:laion/CLIP-test"


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(9)
    return micro_clip().eval()


@pytest.fixture(scope="module")
def published(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder, with files beside the model that are none of ours to take."""
    folder = tmp_path_factory.mktemp("published")
    save_clip(model, MICRO_CONFIG, folder)
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("# A model\n")
    (folder / "vocab.txt").write_text("a\n")
    return folder


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "clip"
    path.mkdir()
    return path


@pytest.fixture
def known(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes open_clip know the micro CLIP by a name and its weights by the tag ``test``."""
    weights = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)

    def register(quick_gelu: bool) -> None:
        tags = {"test": {"url": "https://example.org/weights", "quick_gelu": quick_gelu}}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, deepcopy(MICRO_CONFIG))
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, tags)
        monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(weights))

    return register


def check_same_model(directory: Path, model: Any) -> None:
    loaded = load_clip(directory, CPU)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    assert torch.isfinite(embed_texts(loaded, ["a red boot"], batch_size=1)).all()


def test_a_folder_is_copied_without_pickles(model: Any, published: Path, directory: Path) -> None:
    fetch_clip("path", str(published), None, None, directory)
    assert {path.name for path in directory.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, "vocab.txt"}
    check_same_model(directory, model)


@pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_folder_that_is_no_clip_is_refused(
    missing: str, published: Path, directory: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "incomplete"
    folder.mkdir()
    for file in published.iterdir():
        if file.name != missing:
            (folder / file.name).symlink_to(file)
    with pytest.raises(FileNotFoundError, match=f"{missing} is missing"):
        fetch_clip("path", str(folder), None, None, directory)
    assert list(directory.iterdir()) == []


def test_a_model_comes_by_its_name_and_tag(
    model: Any, known: Callable[[bool], None], directory: Path
) -> None:
    known(False)
    fetch_clip("hub", NAME, "test", None, directory)
    assert json.loads((directory / CONFIG_FILE).read_text())["model_cfg"] == MICRO_CONFIG
    check_same_model(directory, model)


def test_weights_of_another_activation_are_refused(
    known: Callable[[bool], None], directory: Path
) -> None:
    known(True)
    with pytest.raises(ValueError, match=rf"use {NAME}-quickgelu\."):
        fetch_clip("hub", NAME, "test", None, directory)
    assert list(directory.iterdir()) == []


def test_an_unknown_name_is_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match=r"no model named 'ViT-B-23'; open_clip\.list_models"):
        fetch_clip("hub", "ViT-B-23", "openai", None, directory)


def test_a_name_without_a_tag_is_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match="'ViT-B-32' needs a `pretrained` tag"):
        fetch_clip("hub", "ViT-B-32", None, None, directory)


def test_an_unknown_tag_is_refused(directory: Path) -> None:
    with pytest.raises(RuntimeError, match="'openia' is not a known tag"):
        fetch_clip("hub", "ViT-B-32", "openia", None, directory)


def test_a_file_in_the_place_of_a_tag_is_refused(published: Path, directory: Path) -> None:
    """Its activation could not be checked: a pickle of OpenAI's would become a model with GELU."""
    file = published / WEIGHTS_FILE
    with pytest.raises(ValueError, match=r"found the file .+open_clip_model\.safetensors"):
        fetch_clip("hub", "ViT-B-32", str(file), None, directory)
    assert list(directory.iterdir()) == []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    offline(tmp_path / "cache", monkeypatch)
    return tmp_path / "cache"


def test_a_repository_is_copied_without_pickles(
    model: Any, published: Path, directory: Path, cache: Path
) -> None:
    mirror(cache, "laion/CLIP-test", published)
    fetch_clip("hub", REPOSITORY, None, None, directory)
    assert {path.name for path in directory.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, "vocab.txt"}
    check_same_model(directory, model)


def test_a_repository_is_taken_at_a_revision(
    model: Any, published: Path, directory: Path, cache: Path
) -> None:
    mirror(cache, "laion/CLIP-test", published, refs=("v1",))
    with pytest.raises(FileNotFoundError, match="neither within reach nor in the local cache"):
        fetch_clip("hub", REPOSITORY, None, None, directory)
    with pytest.raises(FileNotFoundError, match=r"CLIP-test at revision v2 .+--revision v2"):
        fetch_clip("hub", REPOSITORY, None, "v2", directory)
    fetch_clip("hub", REPOSITORY, None, "v1", directory)
    check_same_model(directory, model)


@pytest.mark.parametrize("file", ["", "weights.pt"])
@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_a_tag_of_the_hub_is_taken_at_a_revision(
    file: str,
    revision: str,
    model: Any,
    known: Callable[[bool], None],
    published: Path,
    directory: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(False)
    tags = {"test": {"hf_hub": f"laion/CLIP-test/{file}", "mean": (0.1, 0.2, 0.3)}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, tags)
    source = shutil.copytree(published, tmp_path / "repository")
    if file:
        (source / WEIGHTS_FILE).rename(source / "weights.safetensors")
    mirror(cache, "laion/CLIP-test", source, refs=("v1",))
    fetch_clip("hub", NAME, "test", revision, directory)
    check_same_model(directory, model)
    config = json.loads((directory / CONFIG_FILE).read_text())
    assert config["preprocess_cfg"]["mean"] == [0.1, 0.2, 0.3]
    with pytest.raises(FileNotFoundError, match="CLIP-test at revision v2"):
        fetch_clip("hub", NAME, "test", "v2", directory)


def test_a_tag_that_is_not_on_the_hub_has_no_revision(
    known: Callable[[bool], None], directory: Path
) -> None:
    known(False)
    with pytest.raises(ValueError, match="has no `revision`, found 'v1': set it to null"):
        fetch_clip("hub", NAME, "test", "v1", directory)
    assert list(directory.iterdir()) == []


def test_a_repository_of_pickles_is_refused(
    published: Path, directory: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pickles"
    folder.mkdir()
    for file in published.iterdir():
        if file.name != WEIGHTS_FILE:
            (folder / file.name).symlink_to(file)
    with pytest.raises(FileNotFoundError, match=r"open_clip_pytorch_model\.bin is a pickle"):
        fetch_clip("path", str(folder), None, None, directory)
    assert list(directory.iterdir()) == []


def test_a_repository_out_of_reach_is_named(directory: Path, cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"laion/CLIP-test.+hf download laion/CLIP-test"):
        fetch_clip("hub", REPOSITORY, None, None, directory)
    assert list(directory.iterdir()) == []


def out_of_reach(*_: Any, **__: Any) -> str:
    raise LocalEntryNotFoundError("cannot find the snapshot on the local disk")


def test_weights_out_of_reach_are_named(
    known: Callable[[bool], None], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(False)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", out_of_reach)
    with pytest.raises((RuntimeError, OSError), match="Failed to download weights for tag 'test'"):
        fetch_clip("hub", NAME, "test", None, directory)
    assert list(directory.iterdir()) == []
