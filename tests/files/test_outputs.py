"""Outputs appear whole or not at all, whatever interrupts the writing of them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.files.outputs import (
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
        assert temporary.parent == path.parent  # the same file system, so that a rename is atomic
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
