"""Numbers that are NaN or infinite are refused where they enter; refusing decides no result."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compositional_prompts.compute.rows.local_engine import compute_batch
from compositional_prompts.files.outputs import DamagedOutputError, MissingOutputError
from compositional_prompts.files.scratch import code_of
from compositional_prompts.files.tensors import finite_numbers
from compositional_prompts.files.tensors.finite_numbers import (
    require_finite_rows,
    require_finite_values,
    require_finite_weights,
)
from compositional_prompts.troika.evaluation.judged_rows import PairJudgements

FLOATS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e5m2, torch.float8_e4m3fn),
)
TURNED = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}
EXTREMES = {kind: torch.finfo(kind) for kind in FLOATS}


def weights(path: Path, values: torch.Tensor) -> Path:
    # Of odd lengths, so that what follows is not where a number of its width may begin.
    before, after = torch.arange(3, dtype=torch.uint8), torch.tensor([255] * 7, dtype=torch.uint8)
    save_file({"a": before, "decoder.weight": values, "z": after}, path)
    return path


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_all_finite_numbers_of_every_type_pass(kind: torch.dtype, tmp_path: Path) -> None:
    limits = EXTREMES[kind]
    said = [limits.max, limits.min, limits.tiny, limits.smallest_normal, 0.0, -0.0, 1.0]
    require_finite_weights(
        weights(tmp_path / "w.safetensors", torch.tensor(said, dtype=torch.float64).to(kind))
    )


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_number_that_is_none_is_named_by_file_and_tensor(
    number: float, kind: torch.dtype, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == torch.float8_e4m3fn and number == number:
        pytest.skip("it knows no infinity")
    monkeypatch.setattr(finite_numbers, "_CHUNK_BYTES", 16)
    values = torch.zeros(6)
    values[place] = number
    path = weights(tmp_path / "w.safetensors", values.to(kind))
    with pytest.raises(DamagedOutputError, match=rf"{path} is damaged .*decoder\.weight") as raised:
        require_finite_weights(path)
    assert raised.value.paths == (path,)
    require_finite_weights(path, without=("decoder.",))


def test_integers_and_an_empty_tensor_are_no_floats(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"ids": torch.full((3,), -1), "none": torch.zeros(0)}, path)
    require_finite_weights(path)


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    path = weights(tmp_path / "w.safetensors", torch.ones(4))
    require_finite_weights(path, path)
    weights(tmp_path / "other.safetensors", torch.full((4,), torch.nan)).replace(path)
    with pytest.raises(DamagedOutputError):
        require_finite_weights(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        b"\xff" * 40,
        (10).to_bytes(8, "little") + b"[1, 2]    ",
        (2).to_bytes(8, "little") + b"{}" + b"behind",
        (40).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "shape": [1]}}   ',
        (72).to_bytes(8, "little") + json.dumps(TURNED).ljust(72).encode(),
    ],
)
def test_what_is_no_safetensors_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedOutputError, match=rf"{path} is damaged \(no whole safetensors"):
        require_finite_weights(path)
    with pytest.raises(MissingOutputError, match="absent"):
        require_finite_weights(path.with_name("absent"))


def test_the_row_of_an_item_is_named() -> None:
    rows = np.zeros(3, [("vector", np.float16, (4,)), ("count", np.int32)])
    require_finite_rows(rows, ["a", "b", "c"], "clip vector")
    rows["vector"][1, 2] = np.inf
    with pytest.raises(ValueError, match=r"b: its clip vector \(vector\) is not finite"):
        require_finite_rows(rows, ["a", "b", "c"], "clip vector")


def test_a_maximum_of_nothing_is_minus_infinity_in_rows_of_judging_alone() -> None:
    """So it is of the first and of the last pair of a world, in any run."""
    rows = np.zeros(2, [("seen_after", np.float32), ("count", np.int32)])
    worker = SimpleNamespace(compute=lambda prepared: rows.copy())

    def computed(computation: str) -> np.ndarray:
        return compute_batch(worker, ["a", "b"], None, ["a", "b"], computation)

    rows["seen_after"][1] = -np.inf
    assert np.array_equal(computed(PairJudgements.name), rows)
    with pytest.raises(ValueError, match="b: its clip vector"):
        computed("clip_vector")
    for bad in (np.nan, np.inf):
        rows["seen_after"][1] = bad
        with pytest.raises(ValueError, match=r"b: its troika judging \(seen_after\) is not finite"):
            computed(PairJudgements.name)


def test_tensors_and_arrays_say_how_many() -> None:
    require_finite_values("losses", torch.ones(2), np.ones((2, 3)), torch.empty(0))
    with pytest.raises(ValueError, match="losses: 1 of 6 numbers are NaN or infinite"):
        require_finite_values("losses", torch.ones(2), np.array([[1, 2, np.nan], [1, 1, 1]]))


def test_a_refusal_is_no_part_of_what_code_says(tmp_path: Path) -> None:
    plain, checked = tmp_path / "plain.py", tmp_path / "checked.py"
    plain.write_text("def load(path):\n    values = read(path)\n    return values\n")
    checked.write_text(
        f"from {finite_numbers.__name__} import require_finite_weights\n\n\n"
        "def load(path):\n    require_finite_weights(path)\n    values = read(path)\n"
        "    return values\n"
    )
    assert code_of(plain) == code_of(checked)
    used = "def load(path):\n    values = require_finite_weights(path)\n    return values\n"
    checked.write_text(used)
    plain.write_text(used.replace("require_finite_weights", "read"))
    assert code_of(plain) != code_of(checked)
