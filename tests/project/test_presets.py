"""Presets are whole set-ups: the last one laid counts, comments stay, mistakes change nothing."""

from __future__ import annotations

import io
import itertools
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.pipeline.yaml_file import read_yaml
from compositional_prompts.project.presets import (
    available_presets,
    described_presets,
    lay_preset,
)
from compositional_prompts.project.whole_params import Params, read_all_params

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "params.yaml"
PRESETS = ROOT / "presets"
NAMES = available_presets(PRESETS)


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return shutil.copy(SHIPPED, tmp_path / "params.yaml")


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By preset, the params.yaml that it gives."""
    folder = tmp_path_factory.mktemp("laid")
    files = {name: folder / f"{name}.yaml" for name in NAMES}
    for name, path in files.items():
        shutil.copy(SHIPPED, path)
        lay_preset(name, path, PRESETS)
    return files


def preset(tmp_path: Path, text: str) -> tuple[str, Path]:
    """A folder with the sample and one preset of this text."""
    folder = tmp_path / "presets"
    folder.mkdir(exist_ok=True)
    shutil.copy(PRESETS / "sample.yaml", folder)
    (folder / "mine.yaml").write_text(text)
    return "mine", folder


def flat(document: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def values(path: Path) -> dict[str, Any]:
    return dict(flat(read_yaml(path)))


def head(path: Path) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return " ".join(line.removeprefix("# ") for line in lines)


def comments(text: str) -> list[str]:
    return [match.strip() for match in re.findall(r"(?m)(?:^|\s)(#.*)$", text)]


def test_the_sample_is_what_is_shipped() -> None:
    assert (PRESETS / "sample.yaml").read_text() == SHIPPED.read_text(), (
        "cp params.yaml presets/sample.yaml"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_changes_what_it_says_and_no_more(name: str, laid: dict[str, Path]) -> None:
    read_all_params(laid[name])
    assert values(laid[name]) == values(SHIPPED) | values(PRESETS / f"{name}.yaml")
    below = [path.read_text().split("\nbase:\n")[1] for path in (laid[name], SHIPPED)]
    assert comments(below[0]) == comments(below[1])


RING = list(itertools.pairwise([*NAMES, NAMES[0]]))


# Each after another and before another: all pairs of them take a minute.
@pytest.mark.parametrize(("first", "last"), [*RING, *(pair[::-1] for pair in RING)])
def test_the_last_preset_counts(first: str, last: str, laid: dict[str, Path], params: Path) -> None:
    shutil.copy(laid[first], params)
    lay_preset(last, params, PRESETS)
    assert params.read_text() == laid[last].read_text()


@pytest.mark.parametrize("name", NAMES)
def test_laying_a_preset_twice_is_laying_it_once(name: str, laid: dict[str, Path]) -> None:
    once = laid[name].read_text()
    assert lay_preset(name, laid[name], PRESETS) == ""
    assert laid[name].read_text() == once


def needs(params: Params) -> set[str]:
    """What a set-up cannot run without."""
    models = (params.weights.clip, params.weights.troika_clip, params.weights.blip2)
    published = params.download.dataset in ("fashion_products", "hub")
    archives = params.download.dataset in ("ut_zappos", "mit_states", "cgqa")
    local = params.download.dataset == "vaw"
    return {
        *(["GPU"] if params.base.device == "cuda" else []),
        *(["hub"] if published or any(model.source == "hub" for model in models) else []),
        *(["archive"] if archives else []),
        *(["copy of the data set: download."] if archives or published or local else []),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_what_it_is_and_needs(name: str, laid: dict[str, Path]) -> None:
    what, said = head(PRESETS / f"{name}.yaml").split("Needs: ")
    assert what
    words = ("GPU", "hub", "archive", "copy of the data set: download.")
    assert {word for word in words if word in said} == needs(read_all_params(laid[name]))
    assert ("nothing" in said) == (not needs(read_all_params(laid[name])))


def test_every_preset_has_a_title_of_its_own() -> None:
    titles = [values(PRESETS / f"{name}.yaml")["report.title"] for name in NAMES]
    assert len(set(titles)) == len(NAMES)


def test_what_a_preset_is_and_needs_is_printed(params: Path) -> None:
    listed = " ".join(described_presets(PRESETS).split())
    for name in NAMES:
        assert re.search(rf"\b{name} [A-Z].+Needs: ", listed)
    assert "Needs: a CUDA GPU, the hub" in lay_preset("report", params, PRESETS)
    assert params.read_text().startswith("# The report's own set-up: ")


def test_the_difference_shows_the_changed_lines_only(params: Path, tmp_path: Path) -> None:
    name, folder = preset(tmp_path, f"{SHIPPED.read_text().splitlines()[0]}\nbase: {{seed: 8}}\n")
    difference = lay_preset(name, params, folder)
    changed = [line for line in difference.splitlines() if re.match(r"[+-][^+-]", line)]
    assert [line.split("#")[0].split() for line in changed] == [
        ["-", "seed:", "7"], ["+", "seed:", "8"],
    ]  # fmt: skip
    assert values(params)["base.seed"] == 8


def test_a_list_is_replaced_whole(params: Path, tmp_path: Path) -> None:
    groups = "clip_embed: {attributes: [{name: heel, words: [flat]}]}\n"
    name, folder = preset(tmp_path, groups)
    lay_preset(name, params, folder)
    assert values(params)["clip_embed.attributes"] == [{"name": "heel", "words": ["flat"]}]


def test_a_group_takes_the_place_of_null(params: Path, tmp_path: Path) -> None:
    name, folder = preset(
        tmp_path,
        "finetune: {max_tokens: 50}\n"
        "infer:\n  num_beams: 1\n  grammar: false\n"
        "  sampling: {temperature: 1.0, top_k: 0, top_p: 0.9}\n"
        "download: {ut_zappos: {truth: {url: copy.zip}}}\n",
    )
    text = re.sub(r"    truth: +#.+\n(?:      .+\n){3}", "    truth: null\n", params.read_text())
    params.write_text(text)
    assert values(params)["download.ut_zappos.truth"] is None
    lay_preset(name, params, folder)
    assert values(params)["infer.sampling.top_p"] == 0.9
    assert values(params)["download.ut_zappos.truth.url"] == "copy.zip"


def edit(params: Path, old: str, new: str) -> None:
    text = params.read_text()
    assert old in text
    params.write_text(text.replace(old, new, 1))


def test_what_was_set_by_hand_is_named_or_kept(params: Path) -> None:
    edit(params, "  ut_zappos:\n    path: null", "  ut_zappos:\n    path: /photos")
    edit(params, "threshold: 0.2 ", "threshold: 5e-2")
    before = params.read_text()
    told = lay_preset("report", params, PRESETS).split("Your own values that are gone")[1]
    assert told.split("\n")[1:] == [
        '  download.ut_zappos.path: "/photos"',
        "  enhance.threshold: 0.05",
    ]
    params.write_text(before)
    told = lay_preset("report", params, PRESETS, ["download.ut_zappos.path"])
    assert told.split("\n")[-1] == "  enhance.threshold: 0.05"
    assert values(params)["download.ut_zappos.path"] == "/photos"
    assert values(params)["enhance.threshold"] == 0.2
    assert "Your own" not in lay_preset("sample", params, PRESETS, ["download.ut_zappos.path"])


def test_what_is_of_a_preset_is_nobodys_own(laid: dict[str, Path], params: Path) -> None:
    shutil.copy(laid["report"], params)
    assert "Your own" not in lay_preset("footwear", params, PRESETS)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("finetune: {lora: {rank: 8}}\n", r"mine.yaml: finetune.lora.rank: unknown key"),
        ("finetuning: {epochs: 3}\n", r"mine.yaml: finetuning: unknown key"),
        ("finetune: {epochs: many}\n", r"mine.yaml: finetune.epochs: .+ found 'many'"),
        ("finetune: 3\n", r"mine.yaml: finetune: .+ found 3"),
        ("split: {fractions: {train: 0.9}}\n", r"mine.yaml: split.fractions: .*must sum to 1"),
        ("finetune: [", r"mine.yaml is not YAML: line 2: .+"),
        ("- finetune\n", r"mine.yaml must be a mapping of names to values, found a list"),
        ("# nothing\n", r"mine.yaml must be a mapping of names to values, found nothing"),
    ],
)
def test_a_mistake_is_named_in_a_line_and_leaves_the_file_alone(
    text: str, named: str, params: Path, tmp_path: Path
) -> None:
    name, folder = preset(tmp_path, text)
    with pytest.raises(ParameterError, match=rf"\A.+/presets/{named}") as raised:
        lay_preset(name, params, folder)
    assert "\n" not in str(raised.value)
    assert params.read_text() == SHIPPED.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("base: [", "is not YAML: line 2: .+"),
        ("- base\n", "must be a mapping of names to values, found a list"),
        ("", "must be a mapping of names to values, found nothing"),
    ],
)
def test_a_broken_params_file_is_named_and_left_alone(text: str, named: str, params: Path) -> None:
    params.write_text(text)
    with pytest.raises(ParameterError, match=rf"\A.+/params\.yaml {named}") as raised:
        lay_preset("footwear", params, PRESETS)
    assert "\n" not in str(raised.value)
    assert params.read_text() == text


def test_what_is_not_there_cannot_be_laid_or_kept(params: Path, tmp_path: Path) -> None:
    _, folder = preset(tmp_path, "base: {seed: 8}\n")
    with pytest.raises(ParameterError, match="no preset 'yours'; available: mine, sample"):
        lay_preset("yours", params, folder)
    with pytest.raises(ParameterError, match="available: none"):
        lay_preset("yours", params, tmp_path / "nowhere")
    with pytest.raises(ParameterError, match=r"base\.sede: unknown key; it cannot be kept"):
        lay_preset("mine", params, folder, ["base.sede"])
    assert params.read_text() == SHIPPED.read_text()


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compositional_prompts", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_lists_lays_and_refuses(params: Path, tmp_path: Path) -> None:
    preset(tmp_path, "# My own.\nreport: {title: Mine}\n")
    params.chmod(0o600)
    assert command(tmp_path, "preset").stdout.startswith("mine\n    My own.\nsample\n    Generated")
    edit(params, "workers: 2", "workers: 3")
    laid = command(tmp_path, "preset", "mine", "--keep", "base.workers")
    assert laid.returncode == 0, laid.stderr
    assert "+  title: Mine" in laid.stdout
    assert values(params)["base.workers"] == 3
    assert stat.S_IMODE(params.stat().st_mode) == 0o600
    again = command(tmp_path, "preset", "mine", "--keep", "base.workers")
    assert again.stdout == "params.yaml is so already.\n"
    refused = command(tmp_path, "preset", "yours")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "no preset 'yours'" in refused.stderr


def test_laying_a_preset_leaves_others_yaml_alone(params: Path) -> None:
    """ruamel keeps how a type is written by class: what is changed there changes for everybody."""
    lay_preset("footwear", params, PRESETS)
    text = io.StringIO()
    YAML().dump({"params": [{"params.yaml": None}]}, text)
    assert text.getvalue() == "params:\n- params.yaml:\n"
