"""YAML as DVC writes it: the numbers, booleans and words of version 1.2, and errors of one line."""

from __future__ import annotations

import io
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.pipeline.yaml_file import Yaml12Loader, read_yaml
from compositional_prompts.project.whole_params import read_all_params

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def read(text: str) -> Any:
    return yaml.load(text, Yaml12Loader)


def floats(section: BaseModel, where: str = "") -> Iterator[tuple[str, float]]:
    """Every parameter that is a floating-point number, by its dotted name."""
    for name, value in section:
        if isinstance(value, float):
            yield f"{where}{name}", value
        elif isinstance(value, BaseModel):
            yield from floats(value, f"{where}{name}.")


FLOATS = dict(floats(read_all_params(SHIPPED)))


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return shutil.copy(SHIPPED, tmp_path / "params.yaml")


@pytest.mark.parametrize("number", ["0.00005", "5e-5", "5E-05"])
def test_small_numbers_that_dvc_writes_are_those_numbers(number: str, params: Path) -> None:
    assert {"finetune.learning_rate", "download.max_rejected.share", "split.fractions.val"} <= set(
        FLOATS
    )
    names = [name for name in FLOATS if "fractions" not in name]  # those sum to 1
    apply_overrides(params, [f"{name}={number}" for name in names])
    assert len(re.findall(r": 5e-05\b", params.read_text())) == len(names)
    read = dict(floats(read_all_params(params)))
    assert {name: read[name] for name in names} == dict.fromkeys(names, 0.00005)


@pytest.mark.parametrize("text", ["5e-5", "6e-3", "1e-4", "1e3", "1E+3", ".5", "5.", "-1.5e-7"])
def test_numbers_as_people_write_them(text: str) -> None:
    assert read(text) == float(text)
    assert isinstance(read(text), float)


@pytest.mark.parametrize(
    "text", ["no", "on", "off", "y", "Yes", "12:30", "1:30:00", "2024-01-01", "=", "1_000", "0b11"]
)
def test_words_stay_words(text: str) -> None:
    assert read(f"[{text}]") == [text]


def test_what_is_no_word() -> None:
    assert read("[~, null, true, False, 010, 0o10, 0x1F, -7, .inf]") == [
        None, None, True, False, 10, 8, 31, -7, math.inf,
    ]  # fmt: skip
    assert read("a:\nb: ''") == {"a": None, "b": ""}


def same(ours: Any, theirs: Any) -> bool:
    nan = isinstance(ours, float) and isinstance(theirs, float) and math.isnan(ours)
    return type(ours) is type(theirs) and (ours == theirs or (nan and math.isnan(theirs)))


# PyYAML takes three characters for ends of lines that are none in 1.2.
TEXT = st.text(st.characters(exclude_characters="\x85\u2028\u2029", codec="utf-8"), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT


@settings(deadline=None)
@given(st.lists(SCALARS, max_size=5) | st.dictionaries(TEXT, SCALARS, max_size=5))
def test_what_ruamel_writes_is_read_as_it_was(value: Any) -> None:
    """DVC writes with ruamel.yaml."""
    text = io.StringIO()
    YAML().dump(value, text)
    found = read(text.getvalue())
    if isinstance(value, dict):
        assert list(found) == list(value)
        found, value = list(found.values()), list(value.values())
    assert all(same(ours, theirs) for ours, theirs in zip(found, value, strict=True))


RUAMEL_ALONE = re.compile(
    r".*_.*|[-+]?0b[01]*|[-+]0[ox].*|[-+]?\.[0-9]+[eE][0-9]+|[0-9]{4}-[0-9]+-[0-9]+.*|="
)
"""Extensions of ruamel.yaml beyond the core schema: digits apart, signed bases, dates."""


@settings(deadline=None)
@given(st.from_regex(r"[-+.]?[0-9a-fxobeEnul._+:-]{0,8}", fullmatch=True) | st.sampled_from(
    ["no", "on", "12:30", "Null", "TRUE", "tRUE", ".inf", "-.INF", ".nan", "0o17", "0o18", "08"]
))  # fmt: skip
def test_ruamel_reads_the_same_scalars(text: str) -> None:
    """DVC compares parameters as ruamel.yaml reads them."""
    if RUAMEL_ALONE.fullmatch(text):
        return
    document = f"key: {text}\n"
    try:
        theirs = YAML(typ="safe", pure=True).load(document)
    except Exception:
        return  # no scalar, such as "a:"
    ours = read(document)
    assert same(ours["key"], theirs["key"]), text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must be a mapping of names to values, found nothing"),
        ("- a\n- b\n", "must be a mapping of names to values, found a list"),
        ("just words", "must be a mapping of names to values, found a str"),
        ("base:\n  seed: [1\n", "is not YAML: line 3: .+ expected ',' or ']'"),
        ("a: 1\n\nb: 2\na: 3\n", "is not YAML: line 4: the key 'a' stands twice"),
        ("a: {b: 1, c: 2, b: 1}\n", "is not YAML: line 1: the key 'b' stands twice"),
        ("a: 1\n---\nb: 2\n", "is not YAML: line 2: expected a single document"),
        ("a: !!python/object:os.system x\n", "is not YAML: line 1: could not determine"),
        ("a: \x07\n", "is not YAML: "),
        (b"a: \xff\n", "is not YAML: "),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ParameterError, match=rf"params\.yaml {message}") as raised:
        read_yaml(path)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="run from the root of the project"):
        read_yaml(tmp_path / "params.yaml")


def test_a_mapping_may_be_merged_into_others() -> None:
    text = "a: &a {x: 1}\nb: &b {<<: *a, x: 2, y: 3}\nc: {<<: *b, y: 4}\n"
    assert read(text)["c"] == {"x": 2, "y": 4}


def test_aliases_are_read_once_whatever_they_hold() -> None:
    doubling = "".join(f"- &a{level + 1} [*a{level}, *a{level}]\n" for level in range(60))
    found = read(f"- &a0 {{x: 1}}\n{doubling}- &loop [*loop]\n")
    assert found[2] == [[{"x": 1}] * 2] * 2
    assert found[-1][0] is found[-1]
    with pytest.raises(yaml.YAMLError, match="'x' stands twice"):
        read("- &a {x: 1, x: 2}\n- *a\n")
