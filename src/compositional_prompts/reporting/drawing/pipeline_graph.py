"""The stages of ``dvc.yaml`` and which stage feeds which."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.pipeline.yaml_file import read_yaml

_TEMPLATE = re.compile(r"\$\{\s*([A-Za-z0-9_.]+)\s*\}")
_OUTPUTS = ("outs", "metrics", "plots")


class PipelineError(ValueError):
    """``dvc.yaml`` does not describe a pipeline that can be drawn."""


@dataclass(frozen=True, slots=True)
class PipelineStage:
    """One stage as written; ``variants`` are the names of its matrix or foreach items."""

    name: str
    description: str
    inputs: frozenset[str]
    outputs: frozenset[str]
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages in an order in which each comes after those that feed it.

    ``edges`` are ``(from, to)`` names of stages where an output of the first is an input of the
    second, without those that a longer way round already implies.
    """

    stages: tuple[PipelineStage, ...]
    edges: tuple[tuple[str, str], ...]

    def position(self, timing_name: str) -> int:
        """Where the stage that a timing record names stands; unknown ones come last."""
        owner = self.owner(timing_name)
        names = [stage.name for stage in self.stages]
        return names.index(owner) if owner is not None else len(names)

    def owner(self, timing_name: str) -> str | None:
        """The stage that a timing record belongs to, or None.

        The record of a variant is named after its stage: ``infer@base`` or ``infer-base``.
        """
        names = [stage.name for stage in self.stages]
        if timing_name in names:
            return timing_name
        owners = [name for name in names if timing_name.startswith((f"{name}@", f"{name}-"))]
        return max(owners, key=len, default=None)


def read_pipeline(path: Path) -> Pipeline:
    """Read ``dvc.yaml``; matrix and foreach items are expanded, other templates stay as they are.

    Raises:
        PipelineError: the file is missing or not YAML, has no stages, or its stages form a cycle.
    """
    try:
        document = read_yaml(path)
    except ParameterError as error:
        raise PipelineError(str(error)) from error
    definitions = document.get("stages")
    if not isinstance(definitions, dict) or not definitions:
        raise PipelineError(f"{path} has no stages: expected a mapping `stages:` of at least one.")
    stages = {name: _stage(name, body, path) for name, body in definitions.items()}
    parents = {
        name: {
            other.name
            for other in stages.values()
            if other.name != name and _feeds(other.outputs, stage.inputs)
        }
        for name, stage in stages.items()
    }
    try:
        order = list(TopologicalSorter(parents).static_order())
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise PipelineError(f"{path}: stages feed one another in a circle: {cycle}.") from error
    return Pipeline(tuple(stages[name] for name in order), tuple(_reduced(parents, order)))


def _stage(name: str, body: Any, path: Path) -> PipelineStage:
    if not isinstance(body, dict):
        raise PipelineError(f"{path}: stage {name!r} must be a mapping, found {body!r}.")
    items = _items(body)
    definition = body.get("do", body)
    inputs: set[str] = set()
    outputs: set[str] = set()
    for values in items.values() or [{}]:
        inputs.update(_fill(text, values) for text in _paths(definition.get("deps")))
        for kind in _OUTPUTS:
            outputs.update(_fill(text, values) for text in _paths(definition.get(kind)))
    return PipelineStage(
        name=name,
        description=" ".join(str(definition.get("desc", "")).split()),
        inputs=frozenset(inputs),
        outputs=frozenset(outputs),
        variants=tuple(items),
    )


def _items(body: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The items of a matrix or foreach: name -> what each template key stands for."""
    if isinstance(body.get("matrix"), dict):
        axes = body["matrix"]
        items = {}
        for combination in itertools.product(*(axes[axis] for axis in axes)):
            values: dict[str, str] = {}
            for axis, value in zip(axes, combination, strict=True):
                values |= _flatten(f"item.{axis}", value)
            items["-".join(values.values())] = values
        return items
    each = body.get("foreach")
    if isinstance(each, dict):
        return {
            str(key): {"key": str(key)} | _flatten("item", value) for key, value in each.items()
        }
    if isinstance(each, list):
        return {str(value): _flatten("item", value) for value in each}
    return {}


def _flatten(prefix: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat |= _flatten(f"{prefix}.{key}", item)
        return flat
    return {prefix: str(value)}


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _TEMPLATE.sub(lambda match: values.get(match[1], match[0]), text)


def _paths(entries: Any) -> Iterable[str]:
    """Paths of a list whose entries are a path or a mapping from it to its options."""
    for entry in entries or []:
        yield from ([entry] if isinstance(entry, str) else entry)


def _feeds(outputs: Iterable[str], inputs: Iterable[str]) -> bool:
    """Whether a path of one side is a path of the other or lies inside it."""
    return any(
        PurePosixPath(output).is_relative_to(source) or PurePosixPath(source).is_relative_to(output)
        for output, source in itertools.product(outputs, inputs)
    )


def _reduced(parents: Mapping[str, set[str]], order: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Edges without those whose ends a path of other edges already joins."""
    ancestors: dict[str, set[str]] = {}
    for name in order:
        through = set().union(*(ancestors[parent] for parent in parents[name]))
        ancestors[name] = through | parents[name]
        yield from ((parent, name) for parent in sorted(parents[name] - through))
