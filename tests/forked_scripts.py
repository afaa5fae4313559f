"""Scripts of stages, each in a process of its own that need not import torch and the like again."""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest

STAGES = Path(__file__).parent.parent / "stages"
PATIENCE_SECONDS = 600


def run_forked(
    script: Path, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a script as ``python script arguments`` in ``folder`` would.

    It is the fork of a process that has imported what the stages import, and done nothing else.
    """
    _start_server()
    with tempfile.TemporaryDirectory() as created:
        output = [Path(created) / name for name in ("stdout", "stderr")]
        process = multiprocessing.get_context("forkserver").Process(
            target=_run,
            args=([str(script), *arguments], folder, dict(environment), output),
        )
        process.start()
        process.join(PATIENCE_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        stdout, stderr = (file.read_text() for file in output)
        status = process.exitcode
        process.close()
    assert status is not None
    return subprocess.CompletedProcess([str(script), *arguments], status, stdout, stderr)


@cache
def _start_server() -> None:
    modules = {
        module
        for script in STAGES.glob("*.py")
        for module in re.findall(r"^from (compositional_prompts[\w.]*)", script.read_text(), re.M)
    }
    # A stage that fails asks DVC what makes its inputs.
    multiprocessing.set_forkserver_preload([*sorted(modules), "dvc.repo", "dvc.repo.index"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        forkserver.ensure_running()


def _run(
    arguments: list[str], folder: Path, environment: dict[str, str], output: list[Path]
) -> None:
    for number, file in enumerate(output, start=1):
        with file.open("wb") as opened:
            os.dup2(opened.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
