"""Outputs of the pipeline beside what ``dvc.lock`` has of them, as DVC sees both."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compositional_prompts.files.outputs import MismatchedOutputsError, MissingOutputError
from compositional_prompts.pipeline.dvc_file import PipelineError
from compositional_prompts.pipeline.yaml_file import read_yaml


class RecordedOutputs:
    """The stages of ``dvc.yaml`` with their outputs and what they were made from.

    Code may be newer than what was run: a model stays what it is.
    """

    lock = Path("dvc.lock")

    def __init__(self, repo: Any) -> None:
        self._repo = repo
        self._root = Path(repo.root_dir)
        self._stages = {stage.addressing: stage for stage in repo.index.stages}
        self._outs = {out.fs_path: out for stage in repo.index.stages for out in stage.outs}

    def params(self, stage: str) -> dict[str, Any]:
        """The stage's section as ``dvc.lock`` has it of the last run; empty before there is one."""
        locked = self._locked(stage).get("params", {}).get("params.yaml", {})
        return dict(locked.get(stage, {}))

    def mode(self, stage: str) -> str | None:
        """By which ``mode`` a stage ran last."""
        return self.params(stage).get("mode")

    def inputs(self, stage: str) -> dict[str, str]:
        """MD5 of what a stage read that other stages write, by path."""
        return {
            str(Path(dep.fs_path).relative_to(self._root)): str(dep.hash_info.value)
            for dep in self._stages[stage].deps
            if dep.fs_path in self._outs and dep.hash_info
        }

    def md5(self, path: Path) -> str:
        """Of an output, as ``dvc.lock`` has it."""
        return str(self._out(path).hash_info.value)

    def require(self, paths: Sequence[Path]) -> None:
        """Check that outputs are there, as recorded, and made from one another.

        Raises:
            MissingOutputError: naming all that are not there.
            MismatchedOutputsError: one is another than was recorded, or was made from another.
        """
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise MissingOutputError(
                "\n  ".join(f"{path} is missing." for path in missing), *missing
            )
        for path in paths:
            out = self._out(path)
            if not out.hash_info or out.hash_info != out.get_hash():
                raise MismatchedOutputsError(f"{path} is not as dvc.lock has it.", path)
            if (stale := self._made_from_another(out, set())) is not None:
                raise MismatchedOutputsError(
                    f"{path} was made from another {stale} than dvc.lock has now.", path
                )

    def is_current(self, path: Path) -> bool:
        """Whether an output is there, as recorded, and made from what is recorded."""
        try:
            self.require([path])
        except (MissingOutputError, MismatchedOutputsError):
            return False
        return True

    def track(self, folder: Path) -> None:
        """Let DVC keep a folder that no stage writes, as ``dvc add`` does.

        Raises:
            PipelineError: DVC refuses.
        """
        from dvc.exceptions import DvcException

        try:
            self._repo.add([str(folder)])
        except DvcException as error:
            raise PipelineError(
                f"dvc add {folder} failed: {' '.join(str(error).split())}"
            ) from error

    def _locked(self, stage: str) -> Mapping[str, Any]:
        if not self.lock.is_file():
            return {}
        return dict((read_yaml(self.lock).get("stages") or {}).get(stage) or {})

    def _out(self, path: Path) -> Any:
        try:
            return self._outs[str(self._root / path)]
        except KeyError as error:
            raise PipelineError(f"dvc.yaml has no stage that writes {path}.") from error

    def _made_from_another(self, out: Any, seen: set[str]) -> str | None:
        """The first output, upwards, whose recorded content is not the one that was read."""
        if out.fs_path in seen:
            return None
        seen.add(out.fs_path)
        for dep in out.stage.deps:
            above = self._outs.get(dep.fs_path)
            if above is None:
                continue
            if dep.hash_info != above.hash_info:
                return str(Path(dep.fs_path).relative_to(self._root))
            if (found := self._made_from_another(above, seen)) is not None:
                return found
        return None


@contextmanager
def recorded_outputs() -> Iterator[RecordedOutputs]:
    """Those of the project in the working folder.

    Raises:
        PipelineError: there is no project of DVC, or its ``dvc.yaml`` is refused.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    # What it tells the users of `dvc` to do next is said by who opens it.
    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        with Repo() as repo:
            yield RecordedOutputs(repo)
    except DvcException as error:
        raise PipelineError(f"DVC: {' '.join(str(error).split())}") from error
