"""The stages of ``dvc.yaml`` and which stage feeds which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from compositional_prompts.pipeline.dvc_file import PipelineError, load_index


@dataclass(frozen=True, slots=True)
class PipelineStage:
    """One stage as written; ``variants`` are the names of its matrix or foreach items."""

    name: str
    description: str
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages in an order in which each comes after those that feed it.

    ``edges`` are ``(from, to)`` names of stages where an output of the first is an input of the
    second, without those that a longer way round already implies.
    """

    stages: tuple[PipelineStage, ...]
    edges: tuple[tuple[str, str], ...]


def read_pipeline(path: Path) -> Pipeline:
    """Read ``dvc.yaml`` as DVC does; the items of a matrix or foreach are one stage.

    Raises:
        PipelineError: DVC refuses the file, or its stages form a cycle.
    """
    index = load_index(path)
    variants: dict[str, list[str]] = {}
    descriptions: dict[str, str] = {}
    for stage in index.stages:
        name, _, variant = stage.name.partition("@")
        variants.setdefault(name, []).extend([variant] if variant else [])
        descriptions[name] = " ".join((stage.desc or "").split())
    parents: dict[str, set[str]] = {name: set() for name in variants}
    for reader, writer in index.graph.edges:
        start, end = (stage.name.partition("@")[0] for stage in (writer, reader))
        parents[end] |= {start} - {end}
    try:
        order = list(TopologicalSorter(parents).static_order())
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise PipelineError(f"{path}: stages feed one another in a circle: {cycle}.") from error
    return Pipeline(
        tuple(PipelineStage(name, descriptions[name], tuple(variants[name])) for name in order),
        tuple(_reduced(parents, order)),
    )


def _reduced(parents: Mapping[str, set[str]], order: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Edges without those whose ends a path of other edges already joins."""
    ancestors: dict[str, set[str]] = {}
    for name in order:
        through = set().union(*(ancestors[parent] for parent in parents[name]))
        ancestors[name] = through | parents[name]
        yield from ((parent, name) for parent in sorted(parents[name] - through))
