"""``compositional-prompts rows``: what is kept, pruning it, verifying it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from compositional_prompts.__main__ import main
from compositional_prompts.compute.rows.computation import KEY
from compositional_prompts.compute.rows.row_store import DESCRIPTION, RowStore, StoredRows

ROOT = Path(__file__).parents[2]
DIGEST = "0123456789abcdef" * 2
DESCRIBED = {
    "computation": "vector",
    "settings": {
        "model": DIGEST,
        "beams": 5,
        "lora": {"r": 8, "alpha": None},
        "words": ["red", "blue"],
        "many": list(range(40)),
    },
    "batch": 32,
    "libraries": {"numpy": "2.4.0"},
    "code": DIGEST[::-1],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(name: str, fingerprint: str, days: float = 0, count: int = 3) -> StoredRows:
    """A computation with rows of 1 KiB, last used some days ago."""
    keys = np.frombuffer(np.random.default_rng().bytes(16 * count), KEY)
    with RowStore(Path("rows"), 1).open(name, fingerprint, DESCRIBED) as stored:
        stored.append(keys, np.zeros(count, "V1024"))
    used = time.time() - days * 24 * 3600
    os.utime(Path("rows") / name / fingerprint / DESCRIPTION, (used, used))
    return stored


def rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, list[str], str]:
    """Exit status, lines and errors of the command."""
    monkeypatch.setattr("sys.argv", ["compositional-prompts", "rows", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out.splitlines(), captured.err


def test_what_is_kept_is_shown_with_what_decides_it(capsys, monkeypatch) -> None:
    fill("vector", DIGEST, days=2.5)
    fill("caption", "b1", count=1)
    status, lines, _ = rows(capsys, monkeypatch)
    assert status == 0
    assert lines[0].startswith("caption/b1  1 row, 0.0 MiB, used at ")
    assert lines[1:3] == [
        "    model 01234567, beams 5, lora.r 8, lora.alpha none, words [red, blue], "
        "many [40 values], batch 32",
        "    numpy 2.4.0, code fedcba98",
    ]
    assert lines[3] == "vector/01234567  3 rows, 0.0 MiB, used 2 days ago"
    assert lines[-1] == "rows: 2 computations, 4 rows, 0.0 MiB of at most 20 GiB."


def test_looking_makes_no_store(capsys, monkeypatch) -> None:
    assert rows(capsys, monkeypatch)[:2] == (
        0, ["rows holds no rows: the first `dvc repro` puts some there."],
    )  # fmt: skip
    assert rows(capsys, monkeypatch, "verify")[:2] == (0, ["rows holds no rows."])
    assert rows(capsys, monkeypatch, "prune")[:2] == (0, ["There is nothing to remove."])
    assert not Path("rows").exists()


def test_a_part_is_removed(capsys, monkeypatch) -> None:
    for number, name in enumerate(["caption", "vector", "pixel"]):
        fill(name, f"a{number}", days=number, count=1000)
    fill("pixel", "b0", days=9)
    assert rows(capsys, monkeypatch, "prune")[:2] == (0, ["There is nothing to remove."])
    status, lines, _ = rows(capsys, monkeypatch, "prune", "--to", str(2.5 * 1000 * 1024 / 2**30))
    assert (status, lines) == (0, ["removed pixel/b0  0.0 MiB", "removed pixel/a2  1.0 MiB"])
    fill("vector", "c0")
    status, lines, _ = rows(capsys, monkeypatch, "prune", "--computation", "vector/c")
    assert (status, lines) == (0, ["removed vector/c0  0.0 MiB"])
    status, lines, _ = rows(capsys, monkeypatch, "prune", "--computation", "vector")
    assert (status, lines) == (0, ["removed vector/a1  1.0 MiB"])
    status, _, said = rows(capsys, monkeypatch, "prune", "--computation", "vector")
    assert status == 2
    assert "rows has no computation vector; it has: caption." in said
    with RowStore(Path("rows"), 1).open("caption", "a0", {}):
        held = ["kept caption/a0: a process has it open"]
        assert rows(capsys, monkeypatch, "prune", "--all")[:2] == (1, held)
        assert rows(capsys, monkeypatch, "prune", "--computation", "caption")[:2] == (1, held)
    assert rows(capsys, monkeypatch, "prune", "--all")[1] == ["removed caption/a0  1.0 MiB"]
    assert rows(capsys, monkeypatch)[1][0].startswith("rows holds no rows")


def test_damage_is_named_once(capsys, monkeypatch) -> None:
    fill("vector", "a0", days=3)
    fill("caption", "b1")
    assert rows(capsys, monkeypatch, "verify")[:2] == (
        0, ["caption/b1  0.0 MiB are sound", "vector/a0  0.0 MiB are sound"],
    )  # fmt: skip
    (segment,) = Path("rows/vector/a0").glob("*.rows")
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    status, lines, _ = rows(capsys, monkeypatch, "verify")
    assert status == 1
    assert lines[1] == (
        f"{segment} is damaged: the next run computes again what it needs of its rows"
    )
    assert rows(capsys, monkeypatch, "verify")[0] == 0
    assert rows(capsys, monkeypatch)[1][3] == "vector/a0  0 rows, 0.0 MiB, used 3 days ago"


def test_another_folder_is_named(capsys, monkeypatch) -> None:
    Path("rows").mkdir()
    Path("rows/photo.jpg").touch()
    for arguments in ([], ["verify"], ["prune", "--all"]):
        status, _, said = rows(capsys, monkeypatch, *arguments)
        assert status == 2
        assert "rows is no store of rows: it has photo.jpg" in said
    assert Path("rows/photo.jpg").exists()


@pytest.mark.parametrize("size", ["-1", "nan", "inf", "much"])
def test_a_size_to_prune_to_is_a_number(size: str, capsys, monkeypatch) -> None:
    status, _, said = rows(capsys, monkeypatch, "prune", "--to", size)
    assert status == 2
    assert f"--to: invalid number of GiB value: '{size}'" in said
