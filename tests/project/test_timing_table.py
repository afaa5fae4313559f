"""``compositional-prompts timing``: what the stages left in timing/, as a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compositional_prompts.__main__ import main
from compositional_prompts.files.outputs import DamagedOutputError, MissingOutputError
from compositional_prompts.pipeline.stage import TIMING, run_stage
from compositional_prompts.project.timing_table import duration, mebibytes, timing_table

DVC = "stages: {b: {cmd: x}, infer: {foreach: [x, y], do: {cmd: x}}, a: {cmd: x}}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(DVC)


def record(stage: str, **more: object) -> None:
    values = {
        "stage": stage,
        "seconds": 30.0,
        "rows": 1200,
        "rows_per_second": 40.4,
        "peak_memory_mib": 1234,
        "peak_worker_memory_mib": 0,
    }
    TIMING.mkdir(exist_ok=True)
    (TIMING / f"{stage}.json").write_text(json.dumps(values | more))


def test_stages_stand_in_the_order_of_the_pipeline() -> None:
    for stage in ("a", "infer-x", "b", "gone"):
        record(stage)
    record("infer-y", seconds=120.0, precision="bfloat16", peak_device_memory_mib=77)
    head, *lines, last = timing_table().splitlines()
    assert head.split() == ["stage", "time", "share", "rows", "rows/s", "memory", "GPU",
                            "computed", "in"]  # fmt: skip
    assert [line.split()[0] for line in lines] == ["b", "infer-x", "infer-y", "a", "gone"]
    assert lines[0].split() == ["b", "30.0", "s", "12%", "1,200", "40", "1,234", "MiB"]
    assert lines[2].split()[1:5] == ["2", "min", "00", "s"]
    assert lines[2].endswith("77 MiB  bfloat16")
    assert last == "together  4 min 00 s"
    assert max(map(len, (head, *lines))) <= 120


def test_how_much_was_computed_now_stands_beside_the_rows() -> None:
    record("a", computed=24)
    record("b", computed=0)
    record("infer-x")
    head, *lines, _ = timing_table().splitlines()
    assert head.split()[3:6] == ["rows", "computed", "rows/s"]
    assert [line.split()[4:6] for line in lines] == [
        ["1,200", "0"],
        ["1,200", "40"],
        ["1,200", "24"],
    ]


def test_it_shows_what_a_stage_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with run_stage("b") as run:
        run.rows = 3
    with pytest.raises(SystemExit) as left, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["compositional-prompts", "timing"])
        main()
    assert left.value.code == 0
    assert "b" in capsys.readouterr().out.splitlines()[1]


def test_nothing_has_run() -> None:
    with pytest.raises(MissingOutputError, match="no stage has run in this folder"):
        timing_table()


@pytest.mark.parametrize("content", ["{", "[]", '{"stage": "a"}', '{"stage": 3}', "é"])
def test_a_damaged_file_is_named(content: str) -> None:
    record("a")
    (TIMING / "b.json").write_text(content, encoding="latin-1")
    with pytest.raises(DamagedOutputError, match=r"timing/b\.json must name stage and seconds"):
        timing_table()


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": 3},
        {"precision": ["x"]},
        {"seconds": float("inf")},
        {"rows": float("nan")},
        {"seconds": True},
        {"peak_memory_mib": "9"},
        {"peak_device_memory_mib": float("inf")},
        {"peak_device_memory_mib": "9"},
    ],
)
def test_what_no_stage_writes_is_named(wrong: dict[str, object]) -> None:
    record("b", **wrong)
    with pytest.raises(DamagedOutputError, match=r"timing/b\.json must"):
        timing_table()


def test_time_and_memory_read_well() -> None:
    assert [duration(seconds) for seconds in (4.25, 59.94, 59.96, 185, 7620)] == [
        "4.2 s",
        "59.9 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 07 min",
    ]
    assert mebibytes(1234.4) == "1,234 MiB"
