"""The scripts of the stages: one dialect, and one message in place of a traceback."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from forked_scripts import run_forked
from ruamel.yaml import YAML

from compositional_prompts.project.source_dependencies import stage_script

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
MISSING = {
    "download": "photos",
    "truth": "data/dataset_truth.parquet",
    "split": "data/catalog",
    "colors": "data/truth.parquet",
    "word_scorer": "data/embeddings/words.parquet",
    "check_data": "data/splits.parquet",
    "weights": "data/corpus.parquet",
    "clip_embed": "models/clip",
    "troika_train": "data/pairs.parquet",
    "troika_predict": "data/pairs.parquet",
    "enhance": "models/word_scorer/config.json",
    "stability": "models/word_scorer/config.json",
    "finetune": "data/embeddings/words.parquet",
    "infer": "data/features",
    "score": "data/captions",
    "summary": "metrics/scores.json",
    "recommend": "data/prompts/enhanced.parquet",
    "report": "metrics/enhance.json",
}
"""What a stage misses first in an empty project, where that is not the catalog."""
LINES = 50

stage = pytest.mark.parametrize("name", STAGES)


def arguments(name: str) -> list[str]:
    """The script and its arguments as ``dvc.yaml`` has them; of ``infer``, those of ``base``."""
    command = STAGES[name].get("do", STAGES[name])["cmd"]
    command = command.replace("${item.models}", "--blip2 models/blip2").replace("${key}", "base")
    words: list[str] = command.split()
    start = next(place for place, word in enumerate(words) if word.endswith(".py"))
    return [str(ROOT / words[start]), *words[start + 1 :]]


def run(name: str, project: Path, changes: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """The script in a project that has nothing but ``dvc.yaml`` and changed parameters."""
    shutil.copy(ROOT / "dvc.yaml", project)
    params = YAML().load(ROOT / "params.yaml")
    for section, values in changes.items():
        for key, value in values.items():
            if isinstance(value, dict):
                params[section][key].update(value)
            else:
                params[section][key] = value
    YAML().dump(params, project / "params.yaml")
    environment = {key: value for key, value in os.environ.items() if "TRACEBACK" not in key}
    script, *words = arguments(name)
    return run_forked(Path(script), words, project, environment)


@pytest.mark.parametrize("name", [name for name in STAGES if name != "check"])
def test_a_missing_input_is_one_message(name: str, tmp_path: Path) -> None:
    changes = {
        "download": {"download": {"dataset": "folder"}},
        "weights": {"weights": {"pretrain": {"corpus": "catalog"}}},
    }
    done = run(name, tmp_path, changes.get(name, {}))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = done.stderr.split(f"{name}: ")[-1]
    assert MISSING.get(name, "data/catalog") in message
    if name != "download":  # whose input is the user's own
        assert re.search(r"Run `dvc repro [\w@]+`( or `dvc pull [\w/.]+`)?\.\n$", message)
    left = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {str(path) for path in left if path.parts[0] != "scratch"} == {"dvc.yaml", "params.yaml"}


WITH_PARAMETERS = [
    name
    for name, definition in STAGES.items()
    if "params" in definition.get("do", definition) and name != "check"
]


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_a_wrong_parameter_is_one_message(name: str, tmp_path: Path) -> None:
    keys = STAGES[name].get("do", STAGES[name])["params"]
    section, *_ = (key.split(".")[0] for key in keys if not key.startswith("base."))
    done = run(name, tmp_path, {section: {"nonsense": 1}})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = done.stderr.split(f"{name}: ")[-1]
    assert "params.yaml" in message and f"{section}.nonsense" in message


@stage
def test_scripts_speak_one_dialect(name: str) -> None:
    text = (ROOT / stage_script(STAGES[name])).read_text()
    assert text.startswith(f'"""Stage {name}: ')
    assert text.endswith('\n\nif __name__ == "__main__":\n    run_script(main)\n')
    assert len(text.splitlines()) < LINES
    (main,) = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    calls = [ast.unparse(node) for node in main.body[:2]]
    assert calls[0].startswith("paths = path_arguments(__doc__, ")
    if name in WITH_PARAMETERS and name != "check_data":  # which reads three sections
        assert re.match(r"params, (base|_) = read_params\(paths\.params, ", calls[1])
