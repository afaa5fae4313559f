"""Laying a preset on params.yaml: only its keys change, comments stay, mistakes change nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.project.presets import REPLACED, available_presets, lay_preset
from compositional_prompts.project.whole_params import read_all_params

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "params.yaml"
PRESETS = ROOT / "presets"


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.read_text())
    return path


def preset(tmp_path: Path, text: str) -> tuple[str, Path]:
    """A folder with one preset of this text."""
    folder = tmp_path / "presets"
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(text)
    return "mine", folder


def flat(document: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its dotted name; what a preset replaces whole counts as one value."""
    for key, value in document.items():
        if isinstance(value, dict) and key not in REPLACED:
            yield from flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def values(path: Path) -> dict[str, Any]:
    return dict(flat(yaml.safe_load(path.read_text()) or {}))


def comments(text: str) -> list[str]:
    return [match.strip() for match in re.findall(r"(?m)(?:^|\s)(#.*)$", text)]


@pytest.mark.parametrize("name", available_presets(PRESETS))
def test_shipped_presets_change_what_they_say_and_no_more(name: str, params: Path) -> None:
    before = values(params)
    lay_preset(name, params, PRESETS)
    read_all_params(params)
    assert values(params) == before | values(PRESETS / f"{name}.yaml")
    assert comments(params.read_text()) == comments(SHIPPED.read_text())


@pytest.mark.parametrize("name", available_presets(PRESETS))
def test_laying_a_preset_twice_is_laying_it_once(name: str, params: Path) -> None:
    lay_preset(name, params, PRESETS)
    once = params.read_text()
    assert lay_preset(name, params, PRESETS) == ""
    assert params.read_text() == once


def test_the_difference_shows_the_changed_lines_only(params: Path, tmp_path: Path) -> None:
    name, folder = preset(tmp_path, "finetune: {lora: {r: 8}}\n")
    difference = lay_preset(name, params, folder)
    changed = [line for line in difference.splitlines() if re.match(r"[+-][^+-]", line)]
    assert [line.split("#")[0].split() for line in changed] == [["-", "r:", "16"], ["+", "r:", "8"]]
    assert values(params)["finetune.lora.r"] == 8


def test_a_vocabulary_is_replaced_whole(params: Path, tmp_path: Path) -> None:
    name, folder = preset(tmp_path, "clip_embed: {attributes: {heel: [flat, high]}}\n")
    lay_preset(name, params, folder)
    assert values(params)["clip_embed.attributes"] == {"heel": ["flat", "high"]}
    assert comments(params.read_text()) == comments(SHIPPED.read_text())


def test_an_empty_preset_changes_nothing(params: Path, tmp_path: Path) -> None:
    name, folder = preset(tmp_path, "# nothing yet\n")
    assert lay_preset(name, params, folder) == ""
    assert params.read_text() == SHIPPED.read_text()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("finetune: {lora: {rank: 8}}\n", "'finetune.lora.rank'"),
        ("finetuning: {epochs: 3}\n", "'finetuning'"),
        ("finetune: {epochs: many}\n", "finetune.epochs: .+ found 'many'"),
        ("split: {fractions: {train: 0.9}}\n", "must sum to 1"),
    ],
)
def test_a_mistake_is_named_and_leaves_the_file_alone(
    text: str, named: str, params: Path, tmp_path: Path
) -> None:
    name, folder = preset(tmp_path, text)
    with pytest.raises(ParameterError, match=named):
        lay_preset(name, params, folder)
    assert params.read_text() == SHIPPED.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "presets"]


def test_an_unknown_preset_is_named_with_those_there_are(params: Path, tmp_path: Path) -> None:
    _, folder = preset(tmp_path, "")
    with pytest.raises(ParameterError, match="no preset 'yours'; available: mine"):
        lay_preset("yours", params, folder)
    with pytest.raises(ParameterError, match="available: none"):
        lay_preset("yours", params, tmp_path / "nowhere")


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compositional_prompts", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_lists_lays_and_refuses(params: Path, tmp_path: Path) -> None:
    preset(tmp_path, "report: {title: Mine}\n")
    assert command(tmp_path, "preset").stdout == "mine\n"
    laid = command(tmp_path, "preset", "mine")
    assert laid.returncode == 0, laid.stderr
    assert "+  title: Mine" in laid.stdout
    assert command(tmp_path, "preset", "mine").stdout == "params.yaml is so already.\n"
    refused = command(tmp_path, "preset", "yours")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "no preset 'yours'" in refused.stderr
