"""Scratch folders of resumable stages."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from compositional_prompts.files.scratch import (
    KEPT_DAYS,
    KEPT_RUNS,
    fingerprint,
    link_or_copy,
    scratch_folder,
)


def test_a_failed_run_finds_its_folder_again(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder("infer", "one", tmp_path) as folder:
        (folder / "part").write_text("done")
        raise KeyboardInterrupt
    with scratch_folder("infer", "one", tmp_path) as folder:
        assert (folder / "part").read_text() == "done"
    assert not list(tmp_path.iterdir())


def test_of_a_run_that_fails_before_it_has_done_anything_nothing_stays(tmp_path) -> None:
    other = kill("other", tmp_path)
    with pytest.raises(ValueError, match="damaged"), scratch_folder("infer", "one", tmp_path):
        raise ValueError("an input is damaged")
    assert list((tmp_path / "infer").iterdir()) == [other]
    with pytest.raises(ValueError, match="damaged"), scratch_folder("finetune", "one", tmp_path):
        raise ValueError("an input is damaged")
    assert [path.name for path in tmp_path.iterdir()] == ["infer"]


def kill(key: str, root: Path, age: float = 0) -> Path:
    """A run that was killed some days ago."""
    with pytest.raises(KeyboardInterrupt), scratch_folder("infer", key, root) as folder:
        (folder / "part").write_text(key)
        raise KeyboardInterrupt
    past = time.time() - 24 * 3600 * age
    os.utime(folder, (past, past))
    return folder


def test_other_runs_of_the_stage_stay_until_they_succeed(tmp_path) -> None:
    one, two = kill("one", tmp_path), kill("two", tmp_path)
    with scratch_folder("infer", "three", tmp_path) as folder:
        assert not list(folder.iterdir())
    assert [path.name for path in (tmp_path / "infer").iterdir()] in (
        ["one", "two"],
        ["two", "one"],
    )
    with scratch_folder("infer", "one", tmp_path) as folder:
        assert folder == one
        assert (folder / "part").read_text() == "one"
    assert not one.exists() and two.is_dir()


def test_few_are_kept_and_not_for_ever(tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    folders = [kill(str(days), tmp_path, days) for days in range(KEPT_RUNS + 1)]
    with scratch_folder("infer", "new", tmp_path):
        assert [folder.exists() for folder in folders] == [True] * KEPT_RUNS + [False]
    for folder in folders[1:KEPT_RUNS]:
        past = time.time() - 24 * 3600 * (KEPT_DAYS + 1)
        os.utime(folder, (past, past))
    caplog.clear()
    with scratch_folder("infer", "new", tmp_path):
        assert [folder.exists() for folder in folders] == [True] + [False] * KEPT_RUNS
    assert caplog.text.count("removing") == KEPT_RUNS - 1
    assert re.search(rf"1 other runs .* after {KEPT_DAYS} days", caplog.text)
    # A run that is taken up again is young again.
    assert kill(folders[0].name, tmp_path) == folders[0]


def test_the_fingerprint_follows_code_and_not_its_comments(tmp_path) -> None:
    source = tmp_path / "module.py"
    keys = []
    for text in (
        "def double(x: int) -> int:\n    return 2 * x\n",
        '"""Doubling."""\n\n# why\ndef double(x: int) -> int:\n    """Twice x."""\n'
        "    return 2 * x  # what\n",
        "def double(x: int) -> int:\n    return 3 * x\n",
    ):
        source.write_text(text)
        keys.append(fingerprint({}, [], [source]))
    assert keys[0] == keys[1] != keys[2]
    style = tmp_path / "style.css"
    style.write_text("a {}")
    assert fingerprint({}, [], [style]) != keys[0]


def test_the_fingerprint_follows_settings_and_inputs(tmp_path) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_text("a")
    inputs = [tmp_path / "folder"]
    first = fingerprint({"x": 1, "y": [2]}, inputs, [])
    assert first == fingerprint({"y": [2], "x": 1}, inputs, [])
    assert first != fingerprint({"x": 1, "y": [3]}, inputs, [])
    os.utime(file, ns=(1, 1))
    touched = fingerprint({"x": 1, "y": [2]}, inputs, [])
    assert touched != first
    (tmp_path / "folder" / "more").write_text("")
    assert fingerprint({"x": 1, "y": [2]}, inputs, []) != touched


def test_an_output_is_linked_and_the_scratch_kept(tmp_path) -> None:
    (tmp_path / "source").write_bytes(b"shard")
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "source").samefile(tmp_path / "target")


def test_an_output_on_another_file_system_is_copied(tmp_path, monkeypatch) -> None:
    def refused(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    (tmp_path / "source").write_bytes(b"shard")
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"shard"
    assert not (tmp_path / "source").samefile(tmp_path / "target")
