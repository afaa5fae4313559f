"""What ``dvc.yaml`` says: where outputs lie, which stage writes them, and so what brings them back.

Its templates and items are filled by DVC itself, which takes a second to import: only the report
and what is amiss wait for it. A path that a stage is given stands in its ``cmd`` as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from compositional_prompts.files.outputs import DamagedOutputError, MissingOutputError, OutputError
from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.pipeline.yaml_file import read_yaml

DVC_FILE = Path("dvc.yaml")


class PipelineError(ValueError):
    """``dvc.yaml`` is not there or describes no pipeline."""


def stage_paths(dvc_file: Path = DVC_FILE) -> dict[str, dict[str, Path]]:
    """The paths that every stage's script is given, by the names of its arguments.

    Templates in them stay as they are written.

    Raises:
        PipelineError: the file is missing, is not YAML or has no stages.
    """
    try:
        stages = read_yaml(dvc_file).get("stages")
    except ParameterError as error:
        raise PipelineError(str(error)) from error
    if not isinstance(stages, dict):
        raise PipelineError(f"{dvc_file} has no stages: expected a mapping `stages:`.")
    found = {}
    for name, definition in stages.items():
        words = str(definition.get("do", definition).get("cmd", "")).split()
        found[name] = {
            word[2:].replace("-", "_"): Path(value)
            for word, value in pairwise(words)
            if word.startswith("--")
        }
    return found


def load_index(dvc_file: Path = DVC_FILE) -> Any:
    """DVC's index of one ``dvc.yaml``: its ``stages``, and how they feed one another (``graph``).

    Locks nothing and needs no git, so it may be asked while DVC runs a stage.

    Raises:
        PipelineError: the file is missing, or DVC refuses it; the message is one line.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.index import Index

    if not dvc_file.is_file():
        raise PipelineError(f"{dvc_file} is missing: run from the root of the project.")
    try:
        with Repo(str(dvc_file.absolute().parent), uninitialized=True) as repo:
            index = Index.from_file(repo, str(dvc_file.absolute()))
            _ = index.graph  # finds circles and outputs that two stages write
    except DvcException as error:
        raise PipelineError(f"{dvc_file} is no pipeline: {_reason(error)}") from error
    if not index.stages:
        raise PipelineError(f"{dvc_file} has no stages: expected a mapping `stages:`.")
    return index


def _reason(error: BaseException) -> str:
    """What DVC says of a file that it refuses, on one line, its cause included."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(" ".join(str(cause).split()))
        cause = cause.__cause__
    return ": ".join(dict.fromkeys(said))


@dataclass(frozen=True, slots=True)
class StageOutput:
    """An output of a stage; ``cached`` ones are kept by DVC, the others by git."""

    path: Path
    stage: str
    cached: bool


def read_outputs(dvc_file: Path = DVC_FILE) -> list[StageOutput]:
    """Every output of the pipeline, in the order of ``dvc.yaml``; paths are absolute.

    Raises:
        PipelineError: as :func:`load_index`.
    """
    return [
        StageOutput(Path(output.fs_path), stage.addressing, output.use_cache)
        for stage in load_index(dvc_file).stages
        for output in stage.outs
    ]


def remedy(error: OutputError, outputs: Iterable[StageOutput]) -> str:
    """The command that puts right what ``error`` names, or nothing where no stage writes it."""
    wanted = [path.absolute() for path in error.paths]
    concerned = list(_concerned(wanted, outputs))
    if not concerned:
        return ""
    stages = " ".join(dict.fromkeys(output.stage for output in concerned))
    # A damaged output may be the one that DVC recorded; the stages before it need no second run.
    force = "-f -s " if isinstance(error, DamagedOutputError) else ""
    pull = ""
    if isinstance(error, MissingOutputError):
        cached = [_shown(output.path) for output in concerned if output.cached]
        pull = f" or `dvc pull {' '.join(cached)}`" if cached else ""
    return f"Run `dvc repro {force}{stages}`{pull}."


def _concerned(wanted: list[Path], outputs: Iterable[StageOutput]) -> Iterator[StageOutput]:
    """Outputs that are, hold or lie in one of the paths."""
    for output in outputs:
        if any(
            path.is_relative_to(output.path) or output.path.is_relative_to(path) for path in wanted
        ):
            yield output


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
