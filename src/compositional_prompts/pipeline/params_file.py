"""Reading ``params.yaml``: the one loader, strict about every key.

A stage reads its own section and ``base`` with :func:`read_params`; unknown, missing and mistyped
keys are refused by name before any work starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from compositional_prompts.pipeline.section import Base, ParameterError, Section
from compositional_prompts.pipeline.yaml_file import read_yaml

SectionType = TypeVar("SectionType", bound=Section)


def explained(error: ValidationError, source: str | Path, prefix: str = "") -> str:
    """What is wrong, a line a key: ``source``, the key's name under ``prefix``, what was found."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in (prefix, *problem["loc"]) if part != "")
        lines.append(": ".join(filter(None, (str(source), key, _reason(problem)))))
    return "\n".join(lines)


def _reason(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if problem["type"] == "missing":
        return "missing; see presets/sample.yaml for its meaning"
    reason = str(problem["msg"]).removeprefix("Value error, ")
    # What several keys have to do with one another: the section says no more than the reason.
    together = problem["type"] == "value_error" and isinstance(problem["input"], dict)
    return reason if together else f"{reason}; found {problem['input']!r}"


def read_params(path: Path, section: type[SectionType]) -> tuple[SectionType, Base]:
    """Read one section and ``base``.

    Raises:
        ParameterError: naming every unknown, missing or mistyped key of the two sections.
    """
    document = read_yaml(path)
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
