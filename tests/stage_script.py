"""Running the script of a stage in the test's own process."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

STAGES = Path(__file__).parent.parent / "stages"


def run_stage(patch: pytest.MonkeyPatch, name: str, paths: Mapping[str, Path]) -> None:
    """Run a stage as ``dvc.yaml`` does, with ``--name PATH`` for each of ``paths``."""
    script = STAGES / f"{name}.py"
    if "params" in paths:
        patch.chdir(paths["params"].parent)  # what it keeps for itself lies where it is called
    patch.setattr(sys, "argv", [str(script), *(f"--{key}={path}" for key, path in paths.items())])
    runpy.run_path(str(script), run_name="__main__")
