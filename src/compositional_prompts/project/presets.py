"""Laying a preset on ``params.yaml`` in place, comments kept."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.project.whole_params import read_all_params

REPLACED = (
    "attributes",
    "filters",
    "reference_colors",
    "sampling",
)
"""Keys whose value is one thing and is replaced whole, not merged key by key."""


def available_presets(folder: Path) -> list[str]:
    """Names of the presets in ``folder``, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _lay(target: MutableMapping[str, Any], changes: Mapping[str, Any], where: str) -> None:
    for key, value in changes.items():
        name = f"{where}{key}"
        if key not in target:
            raise ParameterError(f"The preset sets {name!r}, which params.yaml does not have.")
        if isinstance(value, Mapping) and key not in REPLACED:
            _lay(target[key], value, f"{name}.")
        else:
            target[key] = value


def lay_preset(name: str, params: Path, folder: Path) -> str:
    """Override ``params`` by the preset ``name`` of ``folder`` and return the difference.

    The file is written whole, and only if the outcome is valid.

    Raises:
        ParameterError: there is no such preset, it sets a key that does not exist, or the outcome
            is not valid.
    """
    preset = folder / f"{name}.yaml"
    if not preset.is_file():
        known = ", ".join(available_presets(folder)) or "none"
        raise ParameterError(f"There is no preset {name!r}; available: {known}.")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # never break a line that somebody wrote in one
    # ruamel would write null as nothing, and every such line would show up in the difference.
    yaml.representer.add_representer(
        type(None),
        lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null"),
    )
    before = params.read_text()
    document = yaml.load(before)
    _lay(document, yaml.load(preset.read_text()) or {}, "")
    text = io.StringIO()
    yaml.dump(document, text)
    after = text.getvalue()
    with atomic_file(params) as temporary:
        temporary.write_text(after)
        read_all_params(temporary)
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "params.yaml", f"params.yaml + {name}", lineterm=""
    )
    return "\n".join(lines)
