"""docs/one_photo.ipynb runs from its first cell to its last.

Its cells are plain Python, so they are executed as such, in one namespace: a Jupyter kernel in the
tests would bring two dozen packages and show nothing more.
"""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_catalog import write_catalog
from trained_project import set_params

import compositional_prompts

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "one_photo.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


@pytest.fixture
def printed(
    own_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the notebook prints where it lies: in the folder docs of a project after training."""
    write_catalog(own_project / "data" / "catalog", 3)
    set_params(own_project / "params.yaml", infer={"grammar": True})
    (own_project / "docs").mkdir()
    shutil.copy(NOTEBOOK, own_project / "docs")
    monkeypatch.chdir(own_project / "docs")
    capsys.readouterr()
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, code in enumerate(CODE):
        exec(compile(code, f"{NOTEBOOK.name}, code cell {number}", "exec"), namespace)
    assert (own_project / "scratch" / "one_photo.png").is_file()
    return capsys.readouterr().out


def test_every_part_speaks(printed: str) -> None:
    prompt = next(line for line in printed.splitlines() if line.startswith("A photo of "))
    pair, _, words = prompt.removeprefix("A photo of ").partition(" with ")
    attribute, _, object_ = pair.partition("_")
    assert f"{attribute} {object_}, probability 0." in printed
    for group in ("color", "material"):
        assert f"\n{group} → " in printed
        assert group in words
    for start in ("untrained: ", "fine-tuned: ", "bleu ", "rouge1 ", "recommended: ", "readable: "):
        assert f"\n{start}" in printed


def test_it_uses_public_names_only() -> None:
    imported = {
        name.name
        for code in CODE
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("compositional_prompts")
        for name in node.names
    }
    assert imported
    assert imported <= set(compositional_prompts.__all__)


def test_it_is_kept_without_what_a_run_leaves() -> None:
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        assert cell["metadata"] == {}
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
