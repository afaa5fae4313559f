"""Scratch folders of resumable stages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compositional_prompts.files.scratch import fingerprint, link_or_copy, scratch_folder


def test_a_failed_run_finds_its_folder_again(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder("infer", "one", tmp_path) as folder:
        (folder / "part").write_text("done")
        raise KeyboardInterrupt
    with scratch_folder("infer", "one", tmp_path) as folder:
        assert (folder / "part").read_text() == "done"
    assert not list(tmp_path.iterdir())


def test_another_run_of_the_stage_removes_what_was_left(tmp_path) -> None:
    for stage in ("infer", "finetune"):
        with pytest.raises(KeyboardInterrupt), scratch_folder(stage, "one", tmp_path):
            raise KeyboardInterrupt
    with scratch_folder("infer", "two", tmp_path) as folder:
        assert not list(folder.iterdir())
        assert not (tmp_path / "infer" / "one").exists()
    assert (tmp_path / "finetune" / "one").is_dir()


def test_the_fingerprint_follows_settings_and_inputs(tmp_path) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_text("a")
    inputs = [tmp_path / "folder"]
    first = fingerprint({"x": 1, "y": [2]}, inputs)
    assert first == fingerprint({"y": [2], "x": 1}, inputs)
    assert first != fingerprint({"x": 1, "y": [3]}, inputs)
    os.utime(file, ns=(1, 1))
    touched = fingerprint({"x": 1, "y": [2]}, inputs)
    assert touched != first
    (tmp_path / "folder" / "more").write_text("")
    assert fingerprint({"x": 1, "y": [2]}, inputs) != touched


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
