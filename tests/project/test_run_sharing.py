"""What a clone runs after a push: the matrix of docs/sharing.md, with stages that take no time."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dvc_project import Project, ran

from compositional_prompts.__main__ import main
from compositional_prompts.project import run_sharing
from compositional_prompts.project.run_sharing import (
    LISTING,
    SharingError,
    pull_runs,
    push_runs,
    verify_runs,
)

DVC_YAML = """\
stages:
  words:
    cmd: >-
      mkdir -p words && echo ${word} > words/a.txt && echo b > words/b.txt
      && echo ${word} > made.txt
    deps: [given.txt]
    params: [word]
    outs: [words, made.txt]
  count:
    cmd: wc -c < made.txt > count.txt
    deps: [made.txt]
    outs: [count.txt]
  summary:
    cmd: >-
      printf '{"letters":%d}' $(cat count.txt) > summary.json
    deps: [count.txt]
    metrics: [summary.json: {cache: false}]
"""
"""Outputs of the pipeline's kinds: a folder, files, and a metric that git keeps."""
RUNS = ["words", "count", "summary"]


@dataclass(frozen=True)
class Origin:
    """A project where the word of `main` and another one were run, and nothing pushed."""

    project: Project
    remote: Path


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("ready")
    project = Project(root / "project", root / "home")
    project.root.mkdir()
    (project.root / "dvc.yaml").write_text(DVC_YAML)
    (project.root / "params.yaml").write_text("word: one\n")
    (project.root / "given.txt").write_text("given\n")
    project.git("init", "--quiet", "--initial-branch", "main")
    project.dvc("init", "--quiet")
    for word in ("three", "one"):
        project.change({"word": word})
        assert ran(project.dvc("repro")) == RUNS
    project.commit("The project")
    return project


@pytest.fixture(autouse=True)
def nobody_elses_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what runs in this process."""
    for name, value in Project(tmp_path, tmp_path / "home").environment().items():
        if name.startswith(("DVC_", "GIT_")):
            monkeypatch.setenv(name, value)


@pytest.fixture
def origin(ready: Project, tmp_path: Path) -> Origin:
    project = Project(tmp_path / "origin", tmp_path / "home")
    shutil.copytree(ready.root, project.root)
    with_remote(project, str(tmp_path / "remote"))
    return Origin(project, tmp_path / "remote")


def with_remote(project: Project, url: str, **settings: str) -> None:
    lines = ["[core]", "remote = storage", "['remote \"storage\"']", f"url = {url}"]
    lines += [f"{name} = {value}" for name, value in settings.items()]
    (project.root / ".dvc/config").write_text("\n".join(lines) + "\n")


def clone(origin: Origin, name: str, word: str = "three") -> Project:
    """Another machine, at parameters that were run on the first."""
    project = Project(origin.project.root.parent / name, origin.project.home / name)
    subprocess.run(
        ["git", "clone", "--quiet", origin.project.root, project.root],
        check=True,
        env=project.environment() | os.environ,
    )
    shutil.copy(origin.project.root / ".dvc/config", project.root / ".dvc/config")
    project.change({"word": word})
    return project


def letters(project: Project) -> int:
    return int(json.loads((project.root / "summary.json").read_text())["letters"])


def test_dvc_alone_leaves_objects_behind(origin: Origin) -> None:
    """If this fails, DVC pushes what its records name, and `share push` may go."""
    origin.project.dvc("push", "--run-cache")
    assert len(list((origin.remote / "runs").rglob("*/*/*"))) == 2 * len(RUNS)
    found = verify_runs(root=origin.project.root)
    assert (found.records, len(found.incomplete)) == (2, 4)  # of one word the summary alone
    assert ran(clone(origin, "elsewhere").dvc("repro", "--pull")) != []


def test_nothing_is_computed_twice(origin: Origin) -> None:
    pushed = push_runs(root=origin.project.root)
    assert (pushed.records, pushed.copied, pushed.incomplete) == (6, 6, [])
    assert push_runs(root=origin.project.root).copied == 0
    assert verify_runs(content=True, root=origin.project.root).records == 6
    elsewhere = clone(origin, "elsewhere")
    assert ran(elsewhere.dvc("repro", "--pull")) == []
    assert letters(elsewhere) == 6
    elsewhere.git("checkout", "--", "params.yaml")
    assert ran(elsewhere.dvc("repro", "--pull")) == []
    assert letters(elsewhere) == 4
    assert elsewhere.git("status", "--porcelain", "--", ":!.dvc/config") == ""


def test_everything_can_be_fetched_before_the_network_goes(origin: Origin) -> None:
    push_runs(root=origin.project.root)
    elsewhere = clone(origin, "elsewhere")
    assert pull_runs(objects=True, root=elsewhere.root).objects == 9
    origin.remote.rename(origin.remote.with_name("gone"))
    assert ran(elsewhere.dvc("repro")) == []


@pytest.fixture
def web(origin: Origin) -> Iterator[str]:
    """The remote's folder, to be read only, as a web server shows it: nothing is listed."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def list_directory(self, path: object) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Handler, directory=str(origin.remote))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_read_only_web_address_is_enough(origin: Origin, web: str) -> None:
    push_runs(root=origin.project.root)
    elsewhere = clone(origin, "elsewhere")
    with_remote(elsewhere, web)
    fetched = pull_runs(root=elsewhere.root)
    assert (fetched.records, fetched.copied, fetched.incomplete) == (6, 6, [])
    assert ran(elsewhere.dvc("repro", "--pull")) == []
    assert letters(elsewhere) == 6
    with pytest.raises(SharingError, match="writes to no http remote"):
        push_runs(root=elsewhere.root)
    (origin.remote / LISTING).unlink()
    with pytest.raises(SharingError, match="push once with `compositional-prompts share push`"):
        pull_runs(root=elsewhere.root)


def test_s3(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("dvc_s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    storage = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    storage.start()
    try:
        host, port = storage.get_host_and_port()
        address = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="results")
        with_remote(origin.project, "s3://nowhere/shoes", endpointurl=address)
        with pytest.raises(SharingError, match=r"s3://nowhere/shoes.* does not exist"):
            verify_runs(root=origin.project.root)
        with_remote(origin.project, "s3://results/shoes", endpointurl=address)
        assert verify_runs(root=origin.project.root).records == 0
        assert push_runs(root=origin.project.root).copied == 6
        assert verify_runs(content=True, root=origin.project.root).records == 6
        elsewhere = clone(origin, "elsewhere")
        assert ran(elsewhere.dvc("repro", "--pull")) == []
        assert letters(elsewhere) == 6
    finally:
        storage.stop()


def objects(remote: Path) -> list[Path]:
    return sorted(path for path in (remote / "files").rglob("*") if path.is_file())


def test_a_damaged_remote_is_told_and_repaired(origin: Origin) -> None:
    push_runs(root=origin.project.root)
    root = origin.project.root
    size = {path: path.stat().st_size for path in objects(origin.remote)}
    altered = next(path for path in size if path.read_text() == "three\n")
    altered.chmod(0o644)
    altered.write_text("threw\n")
    next(path for path in size if path.read_text() == "6\n").unlink()
    record = sorted((origin.remote / "runs").rglob("*/*/*"))[0]
    record.write_text(record.read_text()[:100])

    assert any("missing" in said for said in verify_runs(root=root).incomplete)
    found = verify_runs(content=True, root=root)
    assert str(record) in " ".join(found.incomplete) and "damaged" in " ".join(found.incomplete)
    assert found.records < 4

    verify_runs(content=True, remove=True, root=root)
    assert not altered.exists() and not record.exists()
    whole = verify_runs(content=True, root=root)
    assert whole.incomplete == []
    assert push_runs(root=root).records == 6
    assert verify_runs(content=True, root=root).records == 6
    assert altered.read_text() == "three\n"


KILLED = """
import os, signal, sys
from pathlib import Path
from compositional_prompts.project import run_sharing
if sys.argv[1] == "objects":
    from dvc_objects.fs.local import FsspecLocalFileSystem as target
    name, after = "put_file", 3
else:
    target, name, after = run_sharing, "_copy_record", 2
original, done = getattr(target, name), []
def counted(*arguments, **named):
    done.append(1)
    if len(done) > after:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
setattr(target, name, counted)
run_sharing.push_runs()
"""


@pytest.mark.parametrize("among", ["objects", "records"])
def test_a_push_killed_in_the_middle_goes_on(origin: Origin, among: str) -> None:
    root = origin.project.root
    killed = subprocess.run([sys.executable, "-c", KILLED, among], cwd=root, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    there = [path for path in origin.remote.rglob("*") if path.is_file()]
    assert there, "it was killed before it began"
    assert len(objects(origin.remote)) < 9 or among == "records"
    assert verify_runs(content=True, root=root).incomplete == []  # no record without its objects
    assert push_runs(root=root).records == 6
    assert verify_runs(content=True, root=root).records == 6


def test_collecting_garbage_keeps_the_present_and_says_what_it_cost(origin: Origin) -> None:
    root = origin.project.root
    origin.project.dvc("gc", "--workspace", "--force")
    pushed = push_runs(root=root)
    assert pushed.records == len(RUNS)  # the summary among them, whose copy DVC collected
    assert len(pushed.incomplete) == len(RUNS)
    assert "is incomplete" in pushed.incomplete[0]
    assert verify_runs(root=root).incomplete == []
    assert ran(clone(origin, "elsewhere", "one").dvc("repro", "--pull")) == []


def test_experiments_are_pushed_with_what_they_made(origin: Origin, tmp_path: Path) -> None:
    project = origin.project
    project.git("init", "--quiet", "--bare", "--initial-branch", "main", str(tmp_path / "team.git"))
    project.git("remote", "add", "team", str(tmp_path / "team.git"))
    project.git("push", "--quiet", "team", "main")
    project.commit("The storage")
    project.git("push", "--quiet", "team", "main")
    project.dvc("exp", "run", "--name", "longer", "--set-param", "word=seven")
    project.dvc("exp", "push", "team", "longer")
    push_runs(root=project.root)
    elsewhere = Project(tmp_path / "elsewhere", tmp_path / "home2")
    elsewhere.root.mkdir()
    elsewhere.git("clone", "--quiet", str(tmp_path / "team.git"), ".")
    elsewhere.dvc("exp", "pull", "origin", "longer")
    elsewhere.dvc("exp", "apply", "longer")
    assert ran(elsewhere.dvc("repro", "--pull")) == []
    assert letters(elsewhere) == 6


def test_a_remote_that_is_not_there_is_one_line(ready: Project) -> None:
    with pytest.raises(SharingError, match="no remote"):
        push_runs(root=ready.root)
    with pytest.raises(SharingError, match="nowhere"):
        verify_runs("nowhere", root=ready.root)


@dataclass(frozen=True)
class Told:
    """What a command wrote, and how it ended."""

    status: int
    out: str
    error: str


Share = Callable[..., Told]


@pytest.fixture
def share(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Share:
    """`compositional-prompts share` in the origin, in this process."""

    def run(*arguments: str) -> Told:
        monkeypatch.chdir(origin.project.root)
        monkeypatch.setattr("sys.argv", ["compositional-prompts", "share", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Told(int(str(ended.value.code)), *capfd.readouterr())

    return run


def test_an_error_of_the_storages_library_is_one_line(
    origin: Origin, share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dvc_s3")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        (tmp_path / name).touch()
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with_remote(origin.project, "s3://results/shoes", endpointurl=closed_address())
    for action in ("push", "pull", "verify"):
        told = share(action)
        assert told.status == 2
        assert len(told.error.splitlines()) == 1
        assert "storage (s3://results/shoes)" in told.error
        assert "NoCredentialsError: Unable to locate credentials" in told.error


def test_a_plugin_that_is_missing_is_named(origin: Origin, share: Share) -> None:
    if importlib.util.find_spec("dvc_gs"):
        pytest.skip("the plugin is there")
    with_remote(origin.project, "gs://results/shoes")
    told = share("verify")
    assert told.status == 2
    assert "The remote of DVC: gs is supported, but requires 'dvc-gs'" in told.error
    assert "credentials" not in told.error


def test_an_error_of_ours_keeps_its_traceback(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_runs(root=origin.project.root)
    record = records(origin.remote)[0]
    record.chmod(0o644)
    record.write_text("outs: [{}]\n")
    monkeypatch.setattr(run_sharing, "_is_damaged", lambda *_: False)
    with pytest.raises(KeyError):
        verify_runs(root=origin.project.root)


@pytest.mark.parametrize("action", ["pull", "verify"])
def test_a_remote_that_is_no_folder_is_an_error(origin: Origin, share: Share, action: str) -> None:
    told = share(action)
    assert (told.status, told.out) == (2, "")
    assert f"storage ({origin.remote}) does not exist" in told.error
    assert not origin.remote.exists()
    origin.remote.write_text("no folder")
    told = share(action)
    assert (told.status, told.out) == (2, "")
    assert f"storage ({origin.remote}) is a file" in told.error
    origin.remote.unlink()
    origin.remote.mkdir()
    told = share(action)
    assert (told.status, told.error) == (0, "")
    assert f"storage ({origin.remote}) holds no runs: `compositional-prompts share" in told.out


def test_nothing_is_pushed_to_a_file(origin: Origin, share: Share) -> None:
    origin.remote.write_text("no folder")
    told = share("push")
    assert told.status == 2
    assert f"storage ({origin.remote}) is a file" in told.error


def closed_address() -> str:
    """Where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("action", ["pull", "verify"])
def test_a_web_address_that_does_not_answer_is_told(
    origin: Origin, share: Share, action: str
) -> None:
    address = closed_address()
    with_remote(origin.project, address)
    told = share(action)
    assert told.status == 2
    assert f"storage ({address}) cannot be reached (ClientConnectorError" in told.error
    assert LISTING not in told.error


@pytest.mark.parametrize("options", [["--remove"], ["--content", "--remove"]])
def test_nothing_is_removed_over_http(
    origin: Origin, share: Share, web: str, options: list[str]
) -> None:
    push_runs(root=origin.project.root)
    objects(origin.remote)[0].unlink()
    with_remote(origin.project, web)
    told = share("verify", *options)
    assert (told.status, told.out) == (2, "")
    assert "Nothing can be removed over http" in told.error and "-r" in told.error


def records(root: Path) -> list[Path]:
    return sorted(path for path in (root / "runs").rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", ["cut", "empty", "no YAML"])
@pytest.mark.parametrize("options", [[], ["--all"]])
def test_a_damaged_record_of_the_cache_is_fetched_again(
    origin: Origin, share: Share, damage: str, options: list[str]
) -> None:
    push_runs(root=origin.project.root)
    record = records(origin.project.root / ".dvc/cache")[0]
    whole = record.read_bytes()
    record.chmod(0o644)
    record.write_bytes({"cut": whole[:40], "empty": b"", "no YAML": b"\xff{[\n"}[damage])
    told = share("pull", *options)
    assert (told.status, told.error) == (0, "")
    assert "6 runs are whole; 1 record and 0 objects fetched." in told.out
    assert record.read_bytes() == whole


@pytest.mark.parametrize("there", ["damaged", "missing"])
def test_a_damaged_record_that_the_remote_cannot_mend_is_named(
    origin: Origin, share: Share, there: str
) -> None:
    push_runs(root=origin.project.root)
    record, theirs = records(origin.project.root / ".dvc/cache")[0], records(origin.remote)[0]
    assert record.name == theirs.name
    for path in (record, theirs):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:40])
    if there == "missing":
        theirs.unlink()
    told = share("pull", "--all")
    assert told.status == 1
    assert f"{record} is damaged" in told.error
    assert (str(theirs) in told.error) == (there == "damaged")
    assert "5 runs are whole; 0 records and 0 objects fetched." in told.out


def test_one_is_told_as_one(origin: Origin, share: Share) -> None:
    push_runs(root=origin.project.root)
    for record in records(origin.remote):
        if b"wc -c" not in record.read_bytes():
            record.unlink()
    altered = next(path for path in objects(origin.remote) if path.read_text() == "6\n")
    altered.chmod(0o644)
    altered.write_text("7\n")
    told = share("verify", "--content")
    assert "1 object is damaged, such as" in told.error
    assert told.out == "1 run is whole.\n"
    altered.unlink()
    assert "1 object is missing, such as" in share("verify").error
