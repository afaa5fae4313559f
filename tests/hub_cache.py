"""A local mirror of the hub's cache, and huggingface_hub turned to it without a connection."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" + "0" * 34


def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_HUB_OFFLINE=1 and HF_HUB_CACHE do, which are read when the library is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def mirror(cache: Path, repository: str, source: Path, refs: tuple[str, ...] = ("main",)) -> Path:
    """Lay the files of ``source`` into the cache as a snapshot of a repository, with the listing
    of files that a download keeps; return the snapshot's folder.
    """
    storage = cache / f"models--{repository.replace('/', '--')}"
    snapshot = storage / "snapshots" / COMMIT
    shutil.copytree(source, snapshot)
    for ref in refs:
        path = storage / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(COMMIT)
    files = {
        str(path.relative_to(snapshot)): {"size": path.stat().st_size, "blob_id": "0" * 40}
        for path in sorted(snapshot.rglob("*"))
        if path.is_file()
    }
    listing = storage / "trees" / f"{COMMIT}.json"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"format_version": 1, "files": files}))
    return snapshot
