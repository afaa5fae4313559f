"""``--push``: exports on the hub, against a server that speaks its API."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from exported_project import write_exported_project
from hub_server import READER, WRITER, Files, Hub, Repository, running_hub
from huggingface_hub import constants
from trained_project import Run

from compositional_prompts.deployment.publishing import hub_push
from compositional_prompts.deployment.publishing.hub_push import Push, PushError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of which this process has a token that may write."""
    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # Of the two ways to send large files this is the one that no other server is needed for.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")
        yield server


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "own"
    root.mkdir()
    write_exported_project(root)
    monkeypatch.chdir(root)
    return root


def files_of(folder: Path) -> Files:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def pushed(hub: Hub, name: str, branch: str = "main") -> Files:
    """Without what the hub itself puts there."""
    files = hub.files(name, branch)
    return {path: files[path] for path in files if path != ".gitattributes"}


@pytest.mark.parametrize("large", [True, False], ids=["by LFS", "in batches"])
def test_a_data_set_is_pushed_whole_and_private(
    large: bool, exported: Path, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.large = large
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", large)
    status, out, err = run("export-data", "shoes", "--form", "hub", "--push", "shop/shoes")
    assert status == 0, err
    assert pushed(hub, "datasets/shop/shoes") == files_of(exported / "shoes")
    repository = hub.repositories["datasets/shop/shoes"]
    assert repository.private
    assert repository.messages == ["Export shoes"]
    assert out.splitlines()[-1] == f"{hub.endpoint}/datasets/shop/shoes/commit/abc"
    # Another form takes its place, and no row of the first stays beside it.
    repository.branches["main"]["notes.md"] = b"mine"
    arguments = ("--form", "webdataset", "--force", "--message", "As tars")
    assert run("export-data", "shoes", *arguments, "--push", "shop/shoes")[0] == 0
    assert pushed(hub, "datasets/shop/shoes") == files_of(exported / "shoes") | {
        "notes.md": b"mine"
    }
    assert repository.messages[-1] == "As tars"


def test_a_branch_is_made_and_the_default_one_left_alone(
    exported: Path, hub: Hub, run: Run
) -> None:
    for _ in range(2):
        arguments = ("--force", "--push", "shop/shoes", "--revision", "2024-12", "--public")
        assert run("export-data", "shoes", "--form", "csv", *arguments)[0] == 0
    name = "datasets/shop/shoes"
    assert pushed(hub, name, "2024-12") == files_of(exported / "shoes")
    assert pushed(hub, name) == {}
    assert not hub.repositories[name].private


def test_the_command_finds_the_hub_by_its_environment(exported: Path, hub: Hub) -> None:
    """In a process of its own, where huggingface_hub is imported anew."""
    command = [sys.executable, "-m", "compositional_prompts", "export-data", "shoes"]
    environment = {name: value for name, value in os.environ.items() if name[:3] != "HF_"}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [*command, "--form", "csv", "--push", "shop/shoes"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert pushed(hub, "datasets/shop/shoes") == files_of(exported / "shoes")


def test_nothing_is_pushed_by_default(exported: Path, hub: Hub, run: Run) -> None:
    assert run("export-data", "shoes", "--form", "csv")[0] == 0
    assert hub.requests == []


@pytest.mark.parametrize("token", [None, "hf_unknown_secret", READER, WRITER])
def test_what_is_wrong_is_said_and_the_token_is_not(
    token: str | None,
    exported: Path,
    hub: Hub,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.broken = token == WRITER
    status, out, err = run("export-data", "shoes", "--form", "csv", "--push", "shop/shoes")
    assert status == 2
    message = {
        None: "--push shop/shoes: there is no token of the hub: `hf auth login`, or set HF_TOKEN.",
        "hf_unknown_secret": "--push shop/shoes: the hub does not know the token, or it expired",
        READER: "the token has no right to write there (You don't have the rights to write here): "
        "take one with the right to write to shop",
        WRITER: f"the hub at {hub.endpoint} answers 507",
    }[token]
    assert message in err.splitlines()[-1]
    # What can be known beforehand is, before the work is done; else the work is not lost.
    late = token in (READER, WRITER)
    assert (exported / "shoes").exists() == late
    if late:
        assert "shoes itself is whole: `hf upload shop/shoes shoes --repo-type dataset`" in err
    assert "secret" not in out + err + caplog.text


def test_without_a_connection_that_is_said(
    exported: Path, hub: Hub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("export-data", "shoes", "--form", "csv", "--push", "shop/shoes")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert (
            "HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it." in run(*arguments)[2]
        )
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    status, _, err = run(*arguments)
    assert status == 2
    assert "the hub at http://127.0.0.1:9 is out of reach or broke off" in err
    assert not (exported / "shoes").exists()


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        (Repository(False), "shop/shoes is there and public: add --public if everybody may see"),
        (
            Repository(True, {"main": {"data.zip": b""}}),
            "shop/shoes holds something else (data.zip, no .compositional-prompts/export.json)",
        ),
    ],
    ids=["public", "of others"],
)
def test_only_what_is_ours_is_replaced(
    repository: Repository, message: str, exported: Path, hub: Hub, run: Run
) -> None:
    hub.repositories["datasets/shop/shoes"] = repository
    before = repository.branches["main"]
    status, _, err = run("export-data", "shoes", "--form", "csv", "--push", "shop/shoes")
    assert status == 2
    assert message in err
    assert repository.branches == {"main": before}
    assert not (exported / "shoes").exists()


@pytest.mark.parametrize("name", ["shoes", "shop/two/shoes", "shop/..", "shop/ shoes", ""])
def test_what_cannot_be_a_repository_is_refused(name: str, hub: Hub) -> None:
    with pytest.raises(ValueError, match="--push"):
        Push(name, "dataset").check()
    assert hub.requests == []


def test_a_repository_made_on_the_page_is_taken(hub: Hub) -> None:
    files = {".gitattributes": b"", "README.md": b"# Shoes"}
    hub.repositories["models/shop/shoes"] = Repository(True, {"main": files})
    Push("shop/shoes", "model").check()


def test_a_folder_cut_short_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("connection\nreset")

    monkeypatch.setattr(
        hub_push, "HfApi", lambda: SimpleNamespace(create_repo=lambda *_, **__: broken())
    )
    with pytest.raises(PushError, match=r"broke off \(connection reset\)\. .* itself is whole"):
        Push("shop/shoes", "model").upload(tmp_path)


def test_adapter_and_model_are_pushed(own_project: Path, hub: Hub, run: Run) -> None:
    status, out, err = run("export", "shoes", "--push", "shop/shoes")
    assert status == 0, err
    assert pushed(hub, "models/shop/shoes") == files_of(own_project / "shoes")
    assert "adapter_model.safetensors" in hub.files("models/shop/shoes")
    assert out.splitlines()[-1] == f"{hub.endpoint}/models/shop/shoes/commit/abc"
    shutil.rmtree(own_project / "shoes")
    assert run("export", "shoes", "--merged", "--push", "shop/shoes")[0] == 0
    assert pushed(hub, "models/shop/shoes") == files_of(own_project / "shoes")
    assert "adapter_model.safetensors" not in hub.files("models/shop/shoes")
