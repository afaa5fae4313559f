"""What every stage script shares: its arguments and its timing."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from compositional_prompts.pipeline.stage import path_arguments, run_stage


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def arguments(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["stage.py", *words])


def test_paths_are_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments(monkeypatch, "--catalog", "data/catalog", "--dvc-yaml", "dvc.yaml")
    paths = path_arguments("A stage.", "catalog", "dvc_yaml", optional=("adapter",))
    assert (paths.catalog, paths.dvc_yaml) == (Path("data/catalog"), Path("dvc.yaml"))
    assert paths.adapter is None
    assert paths.params == Path("params.yaml")


def test_optional_paths_and_other_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments(monkeypatch, "--adapter", "lora", "--params", "other.yaml")
    paths = path_arguments("A stage.", optional=("adapter",))
    assert (paths.adapter, paths.params) == (Path("lora"), Path("other.yaml"))


@pytest.mark.parametrize("words", [(), ("--catalog",), ("--catalog", "a", "--catalgo", "b")])
def test_a_missing_or_unknown_path_ends_the_stage(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments(monkeypatch, *words)
    with pytest.raises(SystemExit) as left:
        path_arguments("A stage.", "catalog")
    assert left.value.code == 2
    assert "--catal" in capsys.readouterr().err


def test_timing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    timing = Path("timing/split.json")
    with run_stage("split") as run:
        run.rows = 120
        assert not timing.exists()
    record = json.loads(timing.read_text())
    assert set(record) == {
        "stage",
        "seconds",
        "rows",
        "rows_per_second",
        "peak_memory_mib",
        "peak_worker_memory_mib",
    }
    assert (record["stage"], record["rows"]) == ("split", 120)
    assert record["seconds"] >= 0
    assert record["rows_per_second"] > 0
    assert record["peak_memory_mib"] > 1


@pytest.mark.parametrize(("system", "held"), [("linux", 3 * 2**10), ("darwin", 3 * 2**20)])
def test_peak_memory_is_in_mib_on_every_system(
    system: str, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    usage = SimpleNamespace(ru_maxrss=held)
    monkeypatch.setattr("resource.getrusage", lambda who: usage)
    with run_stage("split"):
        pass
    record = json.loads(Path("timing/split.json").read_text())
    assert (record["peak_memory_mib"], record["peak_worker_memory_mib"]) == (3, 3)


def test_the_peak_of_a_gpu_that_was_used_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = [3 * 2**20, 40 * 2**20 + 1]
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: len(peaks),
        max_memory_allocated=lambda device: peaks[device],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with run_stage("finetune"):
        pass
    assert json.loads(Path("timing/finetune.json").read_text())["peak_device_memory_mib"] == 40
    cuda.is_initialized = lambda: False
    with run_stage("finetune"):
        pass
    assert "peak_device_memory_mib" not in json.loads(Path("timing/finetune.json").read_text())


def test_a_stage_without_rows_has_a_rate_of_zero(tmp_path: Path) -> None:
    with run_stage("weights"):
        pass
    record = json.loads(Path("timing/weights.json").read_text())
    assert (record["rows"], record["rows_per_second"]) == (0, 0)


def test_a_failed_stage_writes_no_timing(tmp_path: Path) -> None:
    timing = Path("timing/split.json")
    timing.parent.mkdir()
    timing.write_text("old")
    with pytest.raises(ZeroDivisionError), run_stage("split"):
        _ = 1 / 0
    assert timing.read_text() == "old"
    assert list(timing.parent.iterdir()) == [timing]


def test_a_stage_says_what_it_does_under_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_stage("split"):
        logging.getLogger("compositional_prompts.catalog").info("12 pairs")
        logging.getLogger("open_clip").info("chatter")
    written = capsys.readouterr().err
    assert "split: 12 pairs" in written
    assert "chatter" not in written


def test_what_is_computed_in_is_logged_and_timed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timing = Path("timing/infer.json")
    with run_stage("infer") as run:
        logging.getLogger().addHandler(caplog.handler)  # run_stage put its own in their place
        run.compute_in("bfloat16, attention in float32", "measured")
    assert json.loads(timing.read_text())["precision"] == "bfloat16, attention in float32"
    assert "computing in bfloat16, attention in float32: measured" in caplog.text


def test_a_stage_says_what_it_is_for_and_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Path("metrics/read.json")
    read.parent.mkdir()
    read.write_text("{}")
    os.utime(read, (1, 1))
    arguments(
        monkeypatch, "--catalog", "data/catalog", "--metrics=metrics", "--out=metrics/out.json",
        "--read", "metrics/read.json", "--absent", "nowhere",
    )  # fmt: skip
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", "Stage split: who is where.\n\nMore.")
    with run_stage("split"):
        Path("data/catalog").mkdir(parents=True)
        Path("metrics/out.json").write_text("{}")
    first, last = capsys.readouterr().err.splitlines()
    assert first == "split: who is where."
    assert re.fullmatch(r"split: done in \d\.\d s; wrote data/catalog, metrics/out\.json", last)
