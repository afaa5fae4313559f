"""Presets: whole set-ups of ``params.yaml``.

``presets/sample.yaml`` has every parameter with its comments; another preset says in what it
differs. So what laying one gives does not depend on what lay there before.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.pipeline.yaml_file import Yaml12Loader, read_yaml
from compositional_prompts.project.params_editing import dumped, editor, lay
from compositional_prompts.project.whole_params import checked

SAMPLE = "sample"
_HEAD = re.compile(r"(?:#.*\n)*")
_NOTHING = object()


def available_presets(folder: Path) -> list[str]:
    """Names of the presets in ``folder``, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def described_presets(folder: Path) -> str:
    """Every preset's name, with what it is and what it needs: the comment that it begins with."""
    entries = []
    for name in available_presets(folder):
        words = " ".join(line.removeprefix("#").strip() for line in _head(folder, name).split("\n"))
        entries.append(f"{name}\n{textwrap.indent(textwrap.fill(words, 96), '    ')}")
    return "\n".join(entries)


def lay_preset(name: str, params: Path, folder: Path, keep: Sequence[str] = ()) -> str:
    """Make ``params`` the set-up ``name`` of ``folder``.

    The file is written whole, and only if the outcome is valid.

    Args:
        name: of the preset.
        params: ``params.yaml``.
        folder: of the presets.
        keep: dotted names of parameters that stay as they are in ``params``.

    Returns:
        What the preset is and needs, the difference, and the values that no preset has and that
        are gone; empty where nothing changes.

    Raises:
        ParameterError: there is no such preset or parameter, a file is no mapping in YAML, or the
            outcome is not valid; a line a mistake.
    """
    if name not in available_presets(folder):
        known = ", ".join(available_presets(folder)) or "none"
        raise ParameterError(f"There is no preset {name!r}; available: {known}.")
    before = read_yaml(params)
    set_ups = {other: _set_up(other, folder) for other in available_presets(folder)}
    document = editor().load((folder / f"{SAMPLE}.yaml").read_text())
    if name != SAMPLE:
        lay(document, editor().load((folder / f"{name}.yaml").read_text()))
    for key in keep:
        lay(document, _only(before, key, params))
    after = _HEAD.sub(lambda _: _head(folder, name), dumped(document), count=1)
    values = yaml.load(after, Yaml12Loader)
    kept = f" with {', '.join(keep)} of {params}" if keep else ""
    checked(values, f"{folder / name}.yaml{kept}")
    text = params.read_text()
    if after == text:
        return ""
    with atomic_file(params) as temporary:
        temporary.write_text(after)
    difference = difflib.unified_diff(
        text.splitlines(), after.splitlines(), "before", f"preset {name}", lineterm=""
    )
    return "\n".join([_head(folder, name), *difference, *_gone(before, values, set_ups.values())])


def _head(folder: Path, name: str) -> str:
    found = _HEAD.match((folder / f"{name}.yaml").read_text())
    return found.group() if found else ""


def _set_up(name: str, folder: Path) -> dict[str, Any]:
    values = read_yaml(folder / f"{SAMPLE}.yaml")
    lay(values, read_yaml(folder / f"{name}.yaml"))
    return values


def _only(values: dict[str, Any], key: str, params: Path) -> dict[str, Any]:
    """The mapping that has nothing but the value at a dotted name."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            raise ParameterError(f"{params}: {key}: unknown key; it cannot be kept.")
        found = found[part]
    for part in reversed(key.split(".")):
        found = {part: found}
    return dict(found)


def _values(document: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _gone(
    before: Mapping[str, Any], after: Mapping[str, Any], set_ups: Iterable[Mapping[str, Any]]
) -> list[str]:
    """What somebody wrote by hand: values that no preset has."""
    known = [dict(_values(values)) for values in (after, *set_ups)]
    gone = [
        f"  {key}: {json.dumps(value, default=str)}"
        for key, value in _values(before)
        if all(values.get(key, _NOTHING) != value for values in known)
    ]
    advice = "Your own values that are gone (lay the preset with --keep NAME to keep one):"
    return ["", advice, *gone] if gone else []
