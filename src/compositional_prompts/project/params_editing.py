"""Editing ``params.yaml`` as a person would: what is not changed stays, comments too."""

from __future__ import annotations

import io
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.pipeline.yaml_file import read_yaml


class _NullRepresenter(RoundTripRepresenter):
    """Writes null by its name; ruamel writes nothing, and every such line would be a difference."""


# On a class of its own: ruamel keeps representers by class, for everybody in the process.
_NullRepresenter.add_representer(
    type(None),
    lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null"),
)


def editor() -> YAML:
    """Reads and writes YAML as people wrote it: comments, quotes and long lines stay."""
    yaml = YAML()
    yaml.Representer = _NullRepresenter
    yaml.preserve_quotes = True
    yaml.width = 4096  # never break a line that somebody wrote in one
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def dumped(document: Any) -> str:
    """A document of the :func:`editor`, as text."""
    text = io.StringIO()
    editor().dump(document, text)
    return text.getvalue()


def lay(target: MutableMapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Mappings are laid on one another key by key; every other value takes the old one's place."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), Mapping):
            lay(target[key], value)
        else:
            target[key] = value


def set_params(path: Path, changes: Mapping[str, Any]) -> None:
    """Set parameters by their dotted names; the file is written whole, or not at all.

    Raises:
        ParameterError: the file is not there, is no YAML, or lacks a parameter.
    """
    read_yaml(path)
    text = path.read_text()
    document = editor().load(text)
    for name, value in changes.items():
        *groups, key = name.split(".")
        section = document
        for group in groups:
            section = section.get(group) if isinstance(section, Mapping) else None
        if not isinstance(section, MutableMapping) or key not in section:
            raise ParameterError(f"{path}: {name}: missing key.")
        section[key] = value
    after = dumped(document)
    if after != text:
        with atomic_file(path) as temporary:
            temporary.write_text(after)
