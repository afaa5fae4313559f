"""The direction of imports, as ``lint-imports`` holds it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the package in ``root/src`` against the contracts in ``root/pyproject.toml``."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Package and contracts apart from the project, to be spoiled."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    return tmp_path


def test_imports_point_one_way() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("catalog/reading.py", "import compositional_prompts.clip.embedding"),
        ("enhancement/word_choice.py", "import compositional_prompts.troika.prediction"),
        ("scoring/slot_accuracy.py", "import compositional_prompts.enhancement.word_choice"),
        ("clip/open_clip_model.py", "import compositional_prompts.captioner.parameters"),
        ("files/outputs.py", "from compositional_prompts.catalog import reading"),
        ("reporting/content/page_tables.py", "import torch"),
        ("pipeline/stage.py", "import compositional_prompts.compute.devices"),
        ("prompt/template.py", "import compositional_prompts.troika.parameters"),
        ("troika/model/traction.py", "import compositional_prompts.troika.model.network"),
        ("captioner/features/feature_store.py", "import compositional_prompts.captioner.inference"),
        ("datasets/folders/folder.py", "import compositional_prompts.project.whole_params"),
    ],
)
def test_an_import_against_the_arrows_is_found(module: str, line: str, copy: Path) -> None:
    path = copy / "src" / "compositional_prompts" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout


def test_the_drawing_in_the_document_is_what_is_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (one for one in settings["contracts"] if one["type"] == "layers")
    document = (ROOT / "docs" / "architecture.md").read_text()
    drawing = document.split("## Arrows\n")[1].split("\n\n")[0]
    assert [line.strip() for line in drawing.splitlines()] == contract["layers"]
    rooms = {name for layer in contract["layers"] for name in layer.split(" | ")}
    assert rooms - {"__main__"} == set(re.findall(r"^\| `(\w+)/` \|", document, re.MULTILINE)) - {
        "presets", "stages", "labels", "metrics", "timing",
    }  # fmt: skip


def test_every_module_has_a_name_of_its_own_and_no_room_is_crowded() -> None:
    package = ROOT / "src" / "compositional_prompts"
    modules = [path for path in package.rglob("*.py") if path.name != "__init__.py"]
    names = Counter(path.stem for path in modules if path.name != "parameters.py")
    assert not {name for name, count in names.items() if count > 1}
    assert max(Counter(path.parent for path in modules).values()) <= 12


def test_a_new_module_must_be_given_its_layer(copy: Path) -> None:
    (copy / "src" / "compositional_prompts" / "novelty.py").write_text('"""New."""\n')
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "novelty" in done.stdout
