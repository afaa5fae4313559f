"""Whether the metrics that lie in a project are those of an adapter, by what ``dvc.lock`` says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from compositional_prompts.deployment.trained_paths import TrainedPaths
from compositional_prompts.pipeline.yaml_file import read_yaml

LOCK: Final = Path("dvc.lock")


def metrics_tell_of(adapter: Path, paths: TrainedPaths, files: Collection[Path]) -> bool:
    """Whether this adapter was trained last, and ``files`` made of it last, by its content.

    A copy of the trained adapter counts as that. Where ``dvc.lock`` is not there, or the metrics
    are not as it says, nothing is known of them.

    Args:
        adapter: its folder.
        paths: where the trained adapter lies.
        files: metrics of it, or of what was made with it.
    """
    stages = _stages()
    made = _made(stages)
    trained = paths.adapter.as_posix()
    between = {trained}
    for stage in stages:
        if any(dependency["path"] == trained for dependency in stage.get("deps", ())):
            outs = (out["path"] for out in stage.get("outs", ()))
            between |= {path for path in outs if not path.startswith("metrics/")}
    wanted = between | {path.as_posix() for path in files}
    return (
        made.get(trained) == _folder_md5(adapter)
        and all(_is_as_made(path, made) for path in files)
        # Else something was trained, or captioned, and what comes after it not run again.
        and all(
            dependency.get("md5") == made[dependency["path"]]
            for stage in stages
            if any(out["path"] in wanted for out in stage.get("outs", ()))
            for dependency in stage.get("deps", ())
            if dependency["path"] in between
        )
    )


def made_together(files: Collection[Path]) -> bool:
    """Whether outputs are as ``dvc.lock`` has them, each made from what it has of the others.

    Args:
        files: no folders.
    """
    stages = _stages()
    made = _made(stages)
    wanted = {path.as_posix() for path in files}
    return all(_is_as_made(path, made) for path in files) and all(
        dependency.get("md5") == made[dependency["path"]]
        for stage in stages
        if any(out["path"] in wanted for out in stage.get("outs", ()))
        for dependency in stage.get("deps", ())
        if dependency["path"] in made
    )


def is_trained_last(adapter: Path, paths: TrainedPaths) -> bool:
    """Whether ``dvc.lock`` has this adapter, by its content, as the one that was trained last."""
    return _made(_stages()).get(paths.adapter.as_posix()) == _folder_md5(adapter)


def is_recorded(path: Path) -> bool:
    """Whether ``dvc.lock`` has this output, whatever its content."""
    return path.as_posix() in _made(_stages())


def is_as_recorded(path: Path) -> bool:
    """Whether an output is there with the content that ``dvc.lock`` has of it."""
    return _is_as_made(path, _made(_stages()))


def _is_as_made(path: Path, made: Mapping[str, str | None]) -> bool:
    return path.is_file() and made.get(path.as_posix()) == _md5(path)


def _stages() -> list[dict[str, Any]]:
    """What ``dvc.lock`` has; nothing where it is not there, or nothing was run."""
    if not LOCK.is_file():
        return []
    return list((read_yaml(LOCK).get("stages") or {}).values())


def _made(stages: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """The MD5 of every output, by its path."""
    return {out["path"]: out.get("md5") for stage in stages for out in stage.get("outs", ())}


def _md5(path: Path) -> str | None:
    return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else None


def _folder_md5(folder: Path) -> str:
    """As DVC names a folder: by the list of its files, in the order of their paths."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    listed = [
        {"md5": _md5(path), "relpath": name}
        for name, path in sorted(files.items())
        if path.is_file()
    ]
    return f"{hashlib.md5(json.dumps(listed).encode()).hexdigest()}.dir"
