"""What `doctor` finds: a line each, with the fix, and an exit status that scripts can heed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from compositional_prompts.__main__ import main
from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLITS
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.diagnosis import hub_access, machine
from compositional_prompts.diagnosis.hub_access import examine_hub, wanted_repositories, within
from compositional_prompts.diagnosis.installation import (
    examine_bitsandbytes,
    examine_packages,
    examine_programs,
    examine_python,
)
from compositional_prompts.diagnosis.machine import examine_disk, examine_memory, examine_torch
from compositional_prompts.diagnosis.project_state import examine_data, examine_pipeline
from compositional_prompts.files.tables import write_table
from compositional_prompts.project.whole_params import Params, checked

ROOT = Path(__file__).parents[2]
SHIPPED: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())


def params(**sections: dict[str, Any]) -> Params:
    document = {name: values | sections.get(name, {}) for name, values in SHIPPED.items()}
    return checked(document, "params.yaml")


def said(findings: Any) -> str:
    return "\n".join(map(str, findings))


def doctor(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["compositional-prompts", "doctor"])
    with pytest.raises(SystemExit) as left:
        main()
    return int(str(left.value.code)), capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "error    params.yaml is missing: run from the root of the project."),
        ("base: {seed: [\n", "error    params.yaml is not YAML: line 2"),
        ("- 1\n", "error    params.yaml must be a mapping"),
        ("base: {seed: -1}\n", "error    params.yaml: base.seed: "),
    ],
)
def test_it_works_where_there_is_no_sound_project(
    text: str | None,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    status, lines = doctor(tmp_path, monkeypatch, capsys)
    assert status == 1
    assert any(line.startswith(expected) for line in lines), lines
    assert "error    dvc.yaml is missing: run from the root of the project." in lines
    assert all(re.match(r"(OK      |warning |error   |        ) \S", line) for line in lines)
    assert any("precision auto is" in line for line in lines)


def test_a_sound_project_ends_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("['remote \"shop\"']\n    url = s3://shop/results\n")
    status, lines = doctor(tmp_path, monkeypatch, capsys)
    assert status == 0, lines
    assert "OK       DVC shares results by shop (s3://shop/results)" in lines
    assert any(line.startswith("OK       no data yet") for line in lines)


def test_a_folder_that_dvc_cannot_run_in_is_told(tmp_path: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    found = said(examine_pipeline(tmp_path))
    assert "error    this folder is in no git repository" in found
    assert "error    there is no folder .dvc: clone the project, or run `dvc init`." in found


def test_python_and_packages_are_held_against_what_is_required() -> None:
    assert said(examine_python()).startswith("OK ")
    assert "error    Python 3.9.1, and >=3.11 is required" in said(examine_python("3.9.1"))
    assert said(examine_packages()).startswith("OK ")
    wanted = ["numpy>=1000", "no-such-package>=1", "pydantic>=2", "absent; extra == 'dev'"]
    one, two = examine_packages(wanted)
    assert re.fullmatch(r"error +numpy is installed as \S+, and numpy>=1000 is .+`\S.*", str(one))
    assert "no-such-package is not installed" in two.text


def test_programs_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "error" not in said(examine_programs())
    monkeypatch.setenv("PATH", "/nowhere")
    found = said(examine_programs())
    for program in ("git", "dvc", "python"):
        assert f"there is no {program} on PATH" in found
    assert found.count("source .venv/bin/activate") == 3


def test_a_program_that_says_nothing_is_named_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert f"OK       git: {git}" in said(examine_programs())


def test_a_gpu_that_is_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = params(base={"device": "cuda"})
    assert "error    base.device is cuda, but torch sees no GPU" in said(examine_torch(asked))
    monkeypatch.setattr(machine, "NVIDIA", ROOT)
    assert "sees no GPU though there is a driver" in said(examine_torch(None))


def test_what_few_bits_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert said(examine_bitsandbytes(params())) == ""
    asked = params(base={"device": "cuda"}, infer={"precision": "int8"})
    assert "infer.precision of few bits need bitsandbytes" in said(examine_bitsandbytes(asked))


def test_memory_and_disk(tmp_path: Path) -> None:
    assert said(examine_memory(2**31)).startswith("warning  2.0 GiB of memory")
    assert said(examine_memory(2**34)).startswith("OK       16.0 GiB")
    assert "2.0 GiB of disk are free" in said(examine_disk(tmp_path, None, 2**31))
    assert said(examine_disk(tmp_path, None, 2**34)).startswith("OK")
    hub = {"blip2": {"source": "hub", "name": "Salesforce/blip2-opt-2.7b", "revision": None}}
    large = params(weights=SHIPPED["weights"] | hub)
    assert "a run may take 40" in said(examine_disk(tmp_path, large, 2**34))


def test_data_that_is_there_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    write_table(PAIRS.empty_table(), Path("data/pairs.parquet"), PAIRS)
    write_table(TRUTH.empty_table(), Path("data/truth.parquet"), TRUTH)
    write_table(SPLITS.empty_table(), Path("data/splits.parquet"), SPLITS)
    assert "error    There is no labelled training image" in said(examine_data(params()))
    untrained = params(troika_train={"epochs": 0})
    assert said(examine_data(untrained)) == "OK       the data has what the parameters need"
    whole = Path("data/truth.parquet").read_bytes()
    Path("data/truth.parquet").write_bytes(whole[:300])
    (damaged,) = map(str, examine_data(untrained))
    assert damaged.startswith("error    data/truth.parquet is damaged (")
    assert damaged.endswith("Run `dvc repro -f -s truth`.")
    Path("data/truth.parquet").unlink()
    assert "truth.parquet is missing. Run `dvc repro truth`" in said(examine_data(untrained))


def test_the_hub_is_asked_only_where_a_parameter_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(examine_hub(params())) == []
    newest = {"pretrained": None, "revision": None}
    asked = params(
        download={"dataset": "fashion_products"},
        weights=SHIPPED["weights"]
        | {
            "clip": {"source": "hub", "name": "hf-hub:laion/CLIP-test", **newest},
            "blip2": {"source": "hub", "name": "shop/blip2", "revision": "abc"},
        },
        score={"bert_score": {"source": "hub", "name": "a/bert", "revision": None, "layer": 9}},
    )
    found = {(one.parameter, one.name, one.kind) for one in wanted_repositories(asked)}
    assert found == {
        ("download.fashion_products", "ashraq/fashion-product-images-small", "dataset"),
        ("weights.clip", "laion/CLIP-test", "model"),
        ("weights.blip2", "shop/blip2", "model"),
        ("score.bert_score", "a/bert", "model"),
    }
    monkeypatch.setattr(hub_access, "_is_cached", lambda one: one.name == "shop/blip2")
    monkeypatch.setattr(hub_access, "_unreachable", lambda one: "no route")
    lines = said(examine_hub(asked)).splitlines()
    assert [line.split()[0] for line in lines] == ["error", "error", "OK", "error"]
    assert "within reach (no route): connect, or fetch it with `hf download" in lines[0]


def test_a_network_that_does_not_answer_holds_nobody_up() -> None:
    start = time.monotonic()
    assert within(0.1, lambda: time.sleep(30)) == "no answer in time"
    assert time.monotonic() - start < 10
    assert within(10, lambda: None) is None
    assert within(10, lambda: 1 / 0) == "division by zero"
