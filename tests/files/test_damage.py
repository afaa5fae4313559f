"""Damaged files are found by reading them through."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from compositional_prompts.files.damage import damaged_file


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {suffix: tmp_path / f"sound.{suffix}" for suffix in ("parquet", "json", "safetensors")}
    pq.write_table(pa.table({"word": ["red", "blue"] * 5000}), paths["parquet"])
    paths["json"].write_text(json.dumps({"a": 1}))
    save_file({"weight": np.zeros((4, 4), np.float32)}, paths["safetensors"])
    return paths


def test_sound_files_are_sound(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"\xff")
    assert damaged_file([tmp_path, tmp_path / "absent.json"]) is None


@pytest.mark.parametrize("suffix", ["parquet", "json", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"half"])
def test_what_is_empty_cut_or_of_another_kind_is_named(
    suffix: str, content: bytes, files: dict[str, Path], tmp_path: Path
) -> None:
    path = files[suffix]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    found = damaged_file([tmp_path])
    assert found is not None and found.paths == (path,)
    assert str(found).startswith(f"{path} is damaged (") and "\n" not in str(found)


def test_damage_inside_of_a_table_is_found(files: dict[str, Path]) -> None:
    path = files["parquet"]
    content = bytearray(path.read_bytes())
    content[4:60] = b"\x00" * 56
    path.write_bytes(bytes(content))
    assert damaged_file([path]) is not None
