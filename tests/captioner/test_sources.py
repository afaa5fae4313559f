"""Bringing a BLIP-2 from a folder or from the hub, of which a folder here plays the part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from micro_blip2 import WORDS, miniature, save

from compositional_prompts.captioner import sources
from compositional_prompts.captioner.loading import load_captioner
from compositional_prompts.captioner.sources import PATTERNS, fetch_captioner
from compositional_prompts.captioner.tokens import tokenize_captions

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


def test_a_repository_is_fetched_at_its_revision(
    published: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(repository: str, **options: Any) -> str:
        calls.append((repository, options))
        return str(published)

    monkeypatch.setattr(sources, "snapshot_download", snapshot_download)
    fetch_captioner("hub", HUB_NAME, "abc123", directory)
    check_same_captioner(directory, published)
    assert calls == [(HUB_NAME, {"revision": "abc123", "allow_patterns": list(PATTERNS)})]


@pytest.mark.parametrize(
    ("revision", "command"),
    [
        ("abc123", f"hf download {HUB_NAME} --revision abc123"),
        (None, f"hf download {HUB_NAME}`"),
    ],
)
def test_a_hub_out_of_reach_is_named_with_the_way_out(
    revision: str | None, command: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(repository: str, **options: Any) -> str:
        raise LocalEntryNotFoundError(f"{repository} is not in the cache")

    monkeypatch.setattr(sources, "snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError) as raised:
        fetch_captioner("hub", HUB_NAME, revision, directory)
    assert command in str(raised.value)
    assert "weights.blip2" in str(raised.value)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "need"), [("config.json", "config.json"), ("model.safetensors", "weights")]
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
    with pytest.raises(FileNotFoundError, match=f"no {need} "):
        fetch_captioner("path", str(folder), None, directory)
    assert list(directory.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a BLIP-2"):
        fetch_captioner("path", str(tmp_path / "nowhere"), None, directory)
