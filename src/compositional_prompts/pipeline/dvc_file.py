"""What ``dvc.yaml`` says of outputs: which stage writes them, and so what brings them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from compositional_prompts.files.outputs import DamagedOutputError, MissingOutputError, OutputError

DVC_FILE = Path("dvc.yaml")


@dataclass(frozen=True, slots=True)
class StageOutput:
    """An output of a stage; ``cached`` ones are kept by DVC, the others by git."""

    path: Path
    stage: str
    cached: bool


def read_outputs(dvc_file: Path = DVC_FILE) -> list[StageOutput]:
    """Every output of the pipeline in the order of ``dvc.yaml``, its items and templates filled.

    Reads and locks nothing else, so that it may be asked while DVC runs a stage.

    Raises:
        DvcException: the file is not there or describes no pipeline.
    """
    from dvc.repo import Repo  # a second, spent where something is amiss

    root = dvc_file.absolute().parent
    with Repo(str(root), uninitialized=True) as repo:
        return [
            StageOutput(Path(output.fs_path), stage.addressing, output.use_cache)
            for stage in repo.stage.load_all(dvc_file.name)
            for output in stage.outs
        ]


def remedy(error: OutputError, outputs: Iterable[StageOutput]) -> str:
    """The command that puts right what ``error`` names, or nothing where no stage writes it."""
    wanted = [path.absolute() for path in error.paths]
    concerned = list(_concerned(wanted, outputs))
    if not concerned:
        return ""
    stages = " ".join(dict.fromkeys(output.stage for output in concerned))
    # A damaged output may have been what DVC recorded; the stages before it need no second run.
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
