"""Bringing a BLIP-2 from a folder, or from a mirror of the hub's cache without a connection."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hub_cache import COMMIT, mirror, offline
from micro_blip2 import WORDS, miniature, save, save_as_published

from compositional_prompts.captioner.model.blip2_model import load_captioner
from compositional_prompts.captioner.model.blip2_sources import fetch_captioner
from compositional_prompts.captioner.model.caption_tokens import tokenize_captions
from compositional_prompts.captioner.model.weight_files import INDEX

CPU = torch.device("cpu")
HUB_NAME = "Salesforce/blip2-opt-2.7b"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published BLIP-2's folder, with files beside the model that are none of ours to take."""
    folder = tmp_path_factory.mktemp("published")
    save(miniature("opt"), folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("# A model\n")
    (folder / "runs").mkdir()
    return folder


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "blip2"
    path.mkdir()
    return path


def check_same_captioner(directory: Path, published: Path) -> None:
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {path.suffix for path in directory.iterdir()} & {".bin", ".md", ""}
    brought, original = load_captioner(directory, CPU), load_captioner(published, CPU)
    for name, tensor in original.model.state_dict().items():
        assert torch.equal(tensor, brought.model.state_dict()[name]), name
    expected = tokenize_captions(original, WORDS, 60).ids
    assert torch.equal(tokenize_captions(brought, WORDS, 60).ids, expected)


def test_a_folder_is_copied_without_pickles(published: Path, directory: Path) -> None:
    fetch_captioner("path", str(published), None, directory)
    check_same_captioner(directory, published)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    offline(tmp_path / "cache", monkeypatch)
    return tmp_path / "cache"


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_a_repository_is_taken_from_the_cache(
    revision: str | None, published: Path, directory: Path, cache: Path
) -> None:
    mirror(cache, HUB_NAME, published, ("main", "v1"))
    fetch_captioner("hub", HUB_NAME, revision, directory)
    check_same_captioner(directory, published)


def test_a_hub_out_of_reach_is_named_with_the_way_out(
    published: Path, directory: Path, cache: Path
) -> None:
    mirror(cache, HUB_NAME, published)
    with pytest.raises(FileNotFoundError) as raised:
        fetch_captioner("hub", HUB_NAME, "abc123", directory)
    assert f"hf download {HUB_NAME} --revision abc123" in str(raised.value)
    assert "weights.blip2" in str(raised.value)
    assert list(directory.iterdir()) == []


def test_a_repository_of_pickles_is_refused(published: Path, directory: Path, cache: Path) -> None:
    (mirror(cache, HUB_NAME, published) / "model.safetensors").unlink()
    listing = cache / f"models--{HUB_NAME.replace('/', '--')}" / "trees" / f"{COMMIT}.json"
    listing.unlink()  # a repository without it, not one whose file was lost
    with pytest.raises(FileNotFoundError, match=r"only pytorch_model\.bin, a pickle"):
        fetch_captioner("hub", HUB_NAME, None, directory)
    assert list(directory.iterdir()) == []


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    save_as_published(miniature("opt"), folder, shard_size="100KB")
    (folder / "model.fp16.safetensors").write_bytes(b"a variant that is not loaded")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    return folder


def test_the_shards_of_the_index_are_copied(sharded: Path, directory: Path) -> None:
    fetch_captioner("path", str(sharded), None, directory)
    names = {path.name for path in directory.iterdir()}
    assert {path.name for path in sharded.glob("model-*-of-*.safetensors")} < names
    assert INDEX in names
    assert not names & {"model.fp16.safetensors", "pytorch_model.bin.index.json"}
    original = miniature("opt").model.state_dict()
    brought = load_captioner(directory, CPU).model.state_dict()
    assert all(torch.equal(tensor, brought[name]) for name, tensor in original.items())


def test_an_index_beside_whole_weights_is_left_out(sharded: Path, directory: Path) -> None:
    miniature("opt").model.save_pretrained(sharded / "whole")
    (sharded / "whole" / "model.safetensors").rename(sharded / "model.safetensors")
    fetch_captioner("path", str(sharded), None, directory)
    assert [path.name for path in directory.glob("model*")] == ["model.safetensors"]


def test_a_missing_shard_is_refused(sharded: Path, directory: Path) -> None:
    shard = max(sharded.glob("model-*-of-*.safetensors"))
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard.name} is missing"):
        fetch_captioner("path", str(sharded), None, directory)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "need"),
    [("config.json", "no config.json"), ("model.safetensors", "it needs safetensors weights")],
)
def test_a_folder_that_is_no_blip2_is_refused(
    missing: str, need: str, published: Path, directory: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "incomplete"
    folder.mkdir()
    for file in published.iterdir():
        if file.name != missing and "config" not in file.name.removesuffix("config.json"):
            (folder / file.name).symlink_to(file)
    if missing == "config.json":
        for other in folder.glob("*config.json"):
            other.unlink()
    with pytest.raises(FileNotFoundError, match=need):
        fetch_captioner("path", str(folder), None, directory)
    assert list(directory.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a BLIP-2"):
        fetch_captioner("path", str(tmp_path / "nowhere"), None, directory)
