"""Repositories of the hub as folders: from a mirror of its cache, and what is said without one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import pytest
from hub_cache import COMMIT, mirror, offline
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from compositional_prompts.files import hub
from compositional_prompts.files.hub import fetch_snapshot

NAME = "someone/model"
PATTERNS = ("*.json", "*.safetensors")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    offline(tmp_path / "cache", monkeypatch)
    return tmp_path / "cache"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.mark.parametrize("revision", [None, "main", "v1", "refs/pr/3", COMMIT])
def test_a_revision_is_found_in_the_cache(
    revision: str | None, cache: Path, published: Path
) -> None:
    snapshot = mirror(cache, NAME, published, ("main", "v1", "refs/pr/3"))
    folder = fetch_snapshot(NAME, revision, PATTERNS, "weights.blip2")
    assert folder == snapshot
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_damaged_file_of_the_cache_is_told_from_the_digest_in_its_name(
    cache: Path, published: Path
) -> None:
    folder = mirror(cache, NAME, published)
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir()
    git = hashlib.sha1(b"blob 2\0{}").hexdigest()
    weights = hashlib.sha256(b"weights").hexdigest()
    for name, digest in (("config.json", git), ("model.safetensors", weights)):
        (folder / name).replace(blobs / digest)
        (folder / name).symlink_to(blobs / digest)
    assert fetch_snapshot(NAME, None, PATTERNS, "weights.blip2") == folder
    for digest, content in ((git, b"[]"), (weights, b"weightz")):
        kept = (blobs / digest).read_bytes()
        (blobs / digest).write_bytes(content)
        with pytest.raises(ValueError, match=rf"damaged: .*of the hub {digest}\. Remove .*/blobs/"):
            fetch_snapshot(NAME, None, PATTERNS, "weights.blip2")
        (blobs / digest).write_bytes(kept)
    (blobs / git).write_bytes(b"[]")
    assert fetch_snapshot(NAME, None, ["*.safetensors"], "weights.blip2") == folder


@pytest.mark.parametrize(
    ("revision", "command"),
    [(None, f"hf download {NAME}`"), ("v2", f"hf download {NAME} --revision v2`")],
)
def test_what_the_cache_lacks_is_named_with_its_command(
    revision: str | None, command: str, cache: Path, published: Path
) -> None:
    if revision is not None:
        mirror(cache, NAME, published)  # at another revision
    with pytest.raises(FileNotFoundError) as raised:
        fetch_snapshot(NAME, revision, PATTERNS, "weights.blip2")
    assert command in str(raised.value)
    assert str(raised.value).startswith(f"weights.blip2: {NAME}")


def test_a_file_missing_in_the_cache_is_named(cache: Path, published: Path) -> None:
    (mirror(cache, NAME, published) / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=rf"hf download {NAME}`.+model\.safetensors"):
        fetch_snapshot(NAME, None, PATTERNS, "weights.blip2")


def test_a_file_that_is_not_asked_for_may_be_missing(cache: Path, published: Path) -> None:
    snapshot = mirror(cache, NAME, published)
    (snapshot / "pytorch_model.bin").unlink()
    assert fetch_snapshot(NAME, None, PATTERNS, "weights.blip2") == snapshot


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RevisionNotFoundError, "has no revision 'v2'"),
        (RepositoryNotFoundError, "no repository someone/model"),
        (GatedRepoError, "accept them"),
    ],
)
def test_the_hubs_refusals_are_explained(
    error: type[HfHubHTTPError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = httpx2.Request("GET", "https://example.org")

    def refuse(*_: object, **__: object) -> str:
        raise error("refused", response=httpx2.Response(404, request=request))

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match=rf"weights\.blip2: .*{message}"):
        fetch_snapshot(NAME, "v2", PATTERNS, "weights.blip2")


@pytest.mark.parametrize("name", ["", "a/b/c", "a//b", "a b/c"])
def test_what_cannot_be_a_repository_is_refused(name: str, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"weights\.blip2: .+ORGANISATION/NAME"):
        fetch_snapshot(name, None, PATTERNS, "weights.blip2")
