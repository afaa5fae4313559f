"""Outputs appear whole or not at all, whatever interrupts the writing of them."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.files import outputs
from compositional_prompts.files.outputs import (
    FullDiskError,
    atomic_directory,
    atomic_file,
    rounded,
    write_metrics,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


INTERRUPTIONS = [RuntimeError, KeyboardInterrupt, SystemExit]


def test_a_file_appears_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert (
            temporary.parent.parent == path.parent
        )  # the same file system, so that a rename is atomic
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_an_interrupted_file_leaves_the_old_one(
    interruption: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(interruption), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise interruption
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_not_there_is_not_there_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "out.txt"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_directory_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "stale").touch()
    with atomic_directory(path) as temporary:
        (temporary / "weights").write_text("new")
        assert (path / "stale").exists()
    assert [file.name for file in path.iterdir()] == ["weights"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_what_is_new_follows_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with atomic_file(tmp_path / "file"), atomic_directory(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == 0o666 & ~mask
    assert mode(tmp_path / "folder") == 0o777 & ~mask


@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o664])
def test_what_is_replaced_keeps_its_permissions(permissions: int, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    file.chmod(permissions)
    folder.mkdir()
    folder.chmod(permissions | 0o100)
    with atomic_file(file) as temporary:
        temporary.unlink()  # a library that writes a file of its own there
        temporary.write_text("new")
    with atomic_directory(folder):
        pass
    assert mode(file) == permissions
    assert mode(folder) == permissions | 0o100


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_an_interrupted_directory_leaves_the_old_one(
    interruption: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    with pytest.raises(interruption), atomic_directory(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "weights").write_text("half")
        raise interruption
    assert (path / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def killed(write: Callable[[], object]) -> None:
    """Run in a process of its own that is killed with what it was writing in its hands."""
    process = os.fork()
    if process == 0:
        try:
            write()
        finally:
            os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status)


@pytest.mark.parametrize("write", [atomic_file, atomic_directory])
def test_what_a_killed_run_has_left_goes_with_the_next_of_the_same_output(
    write: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "images.parquet"

    def half() -> None:
        with write(path) as temporary:
            (temporary / "part" if temporary.is_dir() else temporary).write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    killed(half)
    killed(half)
    (tmp_path / ".images.parquet.0123abcd").write_text("of version 0.1.0")
    strangers = {".other.parquet.0123abcd", ".images.parquet.notes", "images.parquet.0123abcd"}
    for name in strangers:
        (tmp_path / name).touch()
    caplog.set_level("INFO")
    with write(path):
        pass
    assert {entry.name for entry in tmp_path.iterdir()} == strangers | {path.name}
    assert caplog.text.count("which a run that was killed has left") == 2


def test_what_another_process_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    with atomic_directory(path) as first:
        (first / "part").write_text("of the first")
        program = (
            "import sys; from pathlib import Path\n"
            "from compositional_prompts.files.outputs import atomic_directory\n"
            "with atomic_directory(Path(sys.argv[1])) as second: (second / 'part').touch()"
        )
        subprocess.run([sys.executable, "-c", program, path], check=True)
        assert (path / "part").read_text() == ""
        assert (first / "part").read_text() == "of the first"
    assert (path / "part").read_text() == "of the first"
    assert list(tmp_path.iterdir()) == [path]


def test_without_locks_outputs_are_written_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(outputs.fcntl, "flock", refuse)
    left = tmp_path / ".out.txt.0123abcd"
    left.mkdir()
    with atomic_file(tmp_path / "out.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "out.txt").read_text() == "whole"
    assert left.is_dir() and len(list(tmp_path.iterdir())) == 2


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large"),
    RuntimeError(
        "[enforce fail at inline_container.cc:664] . unexpected pos: No space left on device"
    ),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__ + str(error)[:12])
@pytest.mark.parametrize("write", [atomic_file, atomic_directory])
def test_a_full_disk_is_told_by_the_name_of_the_output(
    write: Callable[[Path], Any], error: Exception, tmp_path: Path
) -> None:
    path = tmp_path / "scores.parquet"
    with pytest.raises(FullDiskError) as told, write(path):
        raise error
    assert str(told.value).startswith(f"{path} cannot be written: its disk is full (")
    assert "Make room" in str(told.value) and list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_without_a_word_is_found_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    said = r"model\.safetensors .* full \(unexpected pos 64 vs 0\)"
    with pytest.raises(FullDiskError, match=said), atomic_file(path):
        raise RuntimeError("unexpected pos 64 vs 0")


def test_an_error_of_what_nobody_knows_of_is_one_of_the_output(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with pytest.raises(PermissionError, match=r"denied: '.*/out\.txt'$"), atomic_file(path) as new:
        raise PermissionError(errno.EACCES, "Permission denied", str(new))
    missing = tmp_path / "input.txt"
    with pytest.raises(FileNotFoundError, match=r"input\.txt"), atomic_file(path):
        missing.read_text()


def test_metrics_are_rounded_at_every_depth(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "scores.json"
    write_metrics({"a": {"b": 1 / 3, "n": 12345678, "l": [2 / 3, None]}, "s": "0.123456"}, path)
    expected = {"a": {"b": 0.3333, "n": 12345678, "l": [0.6667, None]}, "s": "0.123456"}
    assert json.loads(path.read_text()) == expected
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_json_cannot_carry_leaves_the_old_file(value: float, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_metrics({"a": 1}, path)
    with pytest.raises(ValueError, match="JSON"):
        write_metrics({"a": {"b": [value]}}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


METRICS = st.recursive(
    st.none() | st.integers() | st.floats(-1e6, 1e6) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


@given(METRICS)
def test_rounding_moves_no_number_far(value: Any) -> None:
    outcome = rounded(value)
    assert rounded(outcome) == outcome
    for before, after in zip(leaves(value), leaves(outcome), strict=True):
        if isinstance(before, float):
            assert abs(after - before) <= 0.5001e-4
        else:
            assert after == before
