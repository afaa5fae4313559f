"""The stage ``check`` under DVC: nothing starts before it, and nothing runs again because of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

ROOT = Path(__file__).parents[2]
CHECK = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["check"]
SCRIPT = "stages/check.py"
AFTER = {"cmd": "echo done > after.txt", "deps": CHECK["outs"], "params": ["base.seed"]}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    """A project of the check and a stage that waits for it."""
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    root = tmp_path / "project"
    (root / "stages").mkdir(parents=True)
    monkeypatch.chdir(root)
    shutil.copy(ROOT / SCRIPT, SCRIPT)
    shutil.copy(ROOT / "params.yaml", root)
    check = CHECK | {"deps": [SCRIPT]}
    stages = {"stages": {"check": check, "after": AFTER | {"outs": ["after.txt"]}}}
    Path("dvc.yaml").write_text(yaml.safe_dump(stages))
    with Repo.init(no_scm=True) as repo:
        yield repo


def put(section: str, key: str, value: Any) -> None:
    document = yaml.safe_load(Path("params.yaml").read_text())
    document[section][key] = value
    Path("params.yaml").write_text(yaml.safe_dump(document))


def ran(project: Repo) -> list[str]:
    return [stage.name for stage in project.reproduce()]


@pytest.mark.usefixtures("project")
def test_a_fault_of_any_section_stops_everything_at_once() -> None:
    put("finetune", "epochs", 0)
    put("finetune", "augment", True)
    # A process of its own: what is written must be DVC's and the stage's alone.
    done = subprocess.run(["dvc", "repro"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "check: params.yaml: finetune.epochs: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("after.txt").exists()


def test_what_reads_nothing_of_a_change_stays_as_it_is(project: Repo) -> None:
    assert ran(project) == ["check", "after"]
    put("report", "title", "Another page")
    assert ran(project) == ["check"]
    assert ran(project) == []
    put("base", "seed", 8)
    assert ran(project) == ["check", "after"]
