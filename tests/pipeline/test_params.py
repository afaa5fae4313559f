"""Reading params.yaml: every key that is unknown, missing or mistyped is named."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from compositional_prompts.catalog.splitting.parameters import Split
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.datasets.registry import DATASETS
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.section import KeptRows, ParameterError
from compositional_prompts.project.whole_params import Params, read_all_params

SHIPPED: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
NOT_CHOSEN = {one.name for one in DATASETS} - {SHIPPED["download"]["dataset"]}
# Whose keys are the user's to choose.
FREE = ("download.fashion_products.filters", "download.feed.columns")


def groups(document: dict[str, Any], where: str = "") -> Iterator[str]:
    """The dotted name of every group of keys, the whole file (an empty name) first."""
    yield where
    for key, value in document.items():
        name = f"{where}.{key}".lstrip(".")
        if isinstance(value, dict) and name not in FREE:
            yield from groups(value, name)


def keys() -> list[str]:
    names = []
    for group in groups(SHIPPED):
        names += [f"{group}.{key}".lstrip(".") for key in at(SHIPPED, group)]
    return names


def at(document: dict[str, Any], name: str) -> dict[str, Any]:
    for part in filter(None, name.split(".")):
        document = document[part]
    return document


def written(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    return path


def edited(name: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A copy of the shipped parameters, the group in it that holds ``name``, and the last part."""
    document = copy.deepcopy(SHIPPED)
    group, _, key = name.rpartition(".")
    return document, at(document, group), key


def test_the_shipped_file_is_valid(tmp_path: Path) -> None:
    params = read_all_params(written(tmp_path, SHIPPED))
    assert params.model_dump() == SHIPPED


@pytest.mark.parametrize("name", sorted(set(keys()) - {f"download.{name}" for name in NOT_CHOSEN}))
def test_a_missing_key_is_named(name: str, tmp_path: Path) -> None:
    document, group, key = edited(name)
    del group[key]
    with pytest.raises(ParameterError, match=rf"(?m)^.+params.yaml: {name}: missing; see presets"):
        read_all_params(written(tmp_path, document))


def test_a_data_set_that_is_not_chosen_needs_no_section(tmp_path: Path) -> None:
    document = copy.deepcopy(SHIPPED)
    for name in NOT_CHOSEN:
        del document["download"][name]
    assert read_all_params(written(tmp_path, document)).download.chosen.name == "sample"


@pytest.mark.parametrize("name", keys())
def test_a_mistyped_key_is_named_with_what_was_found(name: str, tmp_path: Path) -> None:
    document, group, key = edited(name)
    group[key] = ["not", {"what": "is meant"}]
    # The key, or the first item in it that is wrong.
    with pytest.raises(ParameterError, match=rf"(?m)^.+params.yaml: {name}(\.\w+)?: .+; found .+"):
        read_all_params(written(tmp_path, document))


@pytest.mark.parametrize("group", list(groups(SHIPPED)))
def test_an_unknown_key_is_named(group: str, tmp_path: Path) -> None:
    document = copy.deepcopy(SHIPPED)
    at(document, group)["sede"] = 1
    name = f"{group}.sede".lstrip(".")
    with pytest.raises(ParameterError, match=rf"(?m)^.+params.yaml: {name}: unknown key"):
        read_all_params(written(tmp_path, document))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("base.seed", "7"),
        ("base.seed", -1),
        ("base.seed", True),
        ("base.device", "gpu"),
        ("base.workers", 0),
        ("download.dataset", "smaple"),
        ("download.max_rejected", 0.01),
        ("download.max_rejected.share", 1.5),
        ("download.max_rejected.count", -1),
        ("finetune.learning_rate", 0.0),
        ("finetune.learning_rate", "fast"),
        ("finetune.epochs", 1.5),
        ("split.corpus", "yes"),
        ("enhance.threshold", float("nan")),
        ("clip_embed.attributes", []),
        ("clip_embed.attributes", {"color": ["red"]}),
        ("clip_embed.attributes", [{"name": "", "words": ["red"]}]),
        ("clip_embed.attributes", [{"name": "color", "words": []}]),
        ("clip_embed.attributes", [{"name": "color", "words": [""]}]),
        ("enhance.reference_colors", {"red": [255, 0, 0]}),
        ("enhance.reference_colors", [{"word": "red", "rgb": [255, 0]}]),
        ("enhance.reference_colors", [{"word": "red", "rgb": [256, 0, 0]}]),
        ("enhance.reference_colors", [{"word": "red", "rgb": [-1, 0, 0]}]),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    document, group, key = edited(name)
    group[key] = value
    with pytest.raises(ParameterError, match=rf"(?m)^.+params.yaml: {name}"):
        read_all_params(written(tmp_path, document))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("split.fractions", {"train": 0.8, "val": 0.1, "test": 0.2}, "must sum to 1, found 1.1"),
        ("weights.troika_clip.source", "hub", "name must be given with source hub"),
        ("clip_embed.template", "a shoe", "must hold {} once, found 'a shoe'"),
        ("clip_embed.template", "{} {}", "must hold {} once"),
        (
            "clip_embed.attributes",
            [{"name": "color", "words": ["red", "red"]}],
            "group 'color' has the word 'red' 2 times",
        ),
        (
            "clip_embed.attributes",
            [{"name": "color", "words": ["red"]}, {"name": "color", "words": ["blue"]}],
            "names the group 'color' 2 times",
        ),
        (
            "enhance.reference_colors",
            [{"word": "Red", "rgb": [255, 0, 0]}, {"word": "red", "rgb": [254, 0, 0]}],
            "names the word 'Red' and 'red', which differ in letter case",
        ),
        (
            "clip_embed.attributes",
            [{"name": "color", "words": ["black", "Black"]}],
            "group 'color' has the word 'black' and 'Black', which differ in letter case",
        ),
        (
            "clip_embed.attributes",
            [{"name": "color", "words": ["red"]}, {"name": "Color", "words": ["blue"]}],
            "names the group 'color' and 'Color', which differ in letter case",
        ),
    ],
)
def test_values_that_do_not_go_together_are_explained(
    name: str, value: Any, message: str, tmp_path: Path
) -> None:
    document, group, key = edited(name)
    group[key] = value
    with pytest.raises(ParameterError) as raised:
        read_all_params(written(tmp_path, document))
    assert message in str(raised.value)


def test_a_stage_reads_its_own_section_and_base(tmp_path: Path) -> None:
    document, group, key = edited("finetune.epochs")
    group[key] = "many"  # another stage's mistake
    split, base = read_params(written(tmp_path, document), Split)
    assert split.model_dump() == SHIPPED["split"]
    assert base.model_dump() == SHIPPED["base"]


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    document = copy.deepcopy(SHIPPED)
    document["enhance"]["treshold"] = document["enhance"].pop("threshold")
    document["base"]["workers"] = "two"
    path = written(tmp_path, document)
    with pytest.raises(ParameterError) as raised:
        read_params(path, Enhance)
    message = str(raised.value)
    assert [line.split(": ")[0] for line in message.splitlines()] == [str(path)] * 3
    for name in ("enhance.threshold: missing", "enhance.treshold: unknown key", "base.workers: "):
        assert name in message


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    document = copy.deepcopy(SHIPPED)
    del document["clip_embed"], document["base"]
    with pytest.raises(ParameterError, match=r"'clip_embed' is missing(.|\n)+'base' is missing"):
        read_params(written(tmp_path, document), ClipEmbed)


def test_parameters_cannot_be_changed_after_reading(tmp_path: Path) -> None:
    params = read_all_params(written(tmp_path, SHIPPED))
    with pytest.raises(ValueError, match="frozen"):
        params.base.seed = 8


def test_every_section_belongs_to_a_stage_or_is_base() -> None:
    assert list(Params.model_fields) == list(SHIPPED)


def test_rows_of_an_experiment_in_a_copy_lie_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "project/.dvc/tmp/exps/standalone/tmpabc"
    copy.mkdir(parents=True)
    here = KeptRows(path="rows", max_gib=1.0)
    elsewhere = KeptRows(path="/shared/rows", max_gib=1.0)
    monkeypatch.chdir(tmp_path / "project")
    assert here.folder == Path("rows")
    monkeypatch.chdir(copy)
    assert here.folder == tmp_path / "project/rows"
    assert elsewhere.folder == Path("/shared/rows")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert KeptRows(path="~/rows", max_gib=1.0).folder == Path("/home/somebody/rows")
