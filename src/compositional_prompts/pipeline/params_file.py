"""Reading ``params.yaml``: the one loader, strict about every key.

A stage reads its own section and ``base`` with :func:`read_params`; unknown, missing and mistyped
keys are refused by name before any work starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from compositional_prompts.pipeline.section import Base, ParameterError, Section

SectionType = TypeVar("SectionType", bound=Section)


def load_params(path: Path) -> dict[str, Any]:
    """The sections of ``params.yaml`` as they stand there, unchecked.

    Raises:
        ParameterError: the file is missing, not YAML, or no mapping.
    """
    if not path.is_file():
        raise ParameterError(f"{path} is missing: run from the root of the project.")
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ParameterError(f"{path} must be a mapping of sections, found {type(document)}.")
    return document


def explained(error: ValidationError, source: Path, prefix: str) -> str:
    """What is wrong, a line a key, by its name under ``prefix``."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in (prefix, *problem["loc"]) if part != "")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key; remove it or correct its spelling")
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing; see params.yaml as shipped for its meaning")
        else:
            lines.append(f"{key}: {problem['msg']}; found {problem['input']!r}")
    return f"{source} is not valid:\n  " + "\n  ".join(lines)


def read_params(path: Path, section: type[SectionType]) -> tuple[SectionType, Base]:
    """Read one section and ``base``.

    Raises:
        ParameterError: naming every unknown, missing or mistyped key of the two sections.
    """
    document = load_params(path)
    problems = []
    values: dict[type[Section], Any] = {}
    for model in (section, Base):
        if model.section not in document:
            problems.append(f"{path}: section {model.section!r} is missing.")
            continue
        try:
            values[model] = model.model_validate(document[model.section])
        except ValidationError as error:
            problems.append(explained(error, path, model.section))
    if problems:
        raise ParameterError("\n".join(problems))
    return values[section], values[Base]
