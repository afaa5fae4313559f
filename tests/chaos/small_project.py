"""A small project that has run, one stage after another without DVC, and is put right again."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from chaos.stage_process import Ended, environment, run_stage
from dvc_project import Project, copy_project

ROOT = Path(__file__).resolve().parents[2]

MODELS = ("clip", "blip2")
"""Pretrained models of a finished run, that the small project takes."""

LIGHT = ("check", "download", "truth", "split", "check_data", "colors")
"""Stages that need no model."""

UNWATCHED = ("timing", "rows", ".git", ".dvc", "dvc.lock", "tests", "benchmarks", "docs", "src")
"""What a stage may write beside its outputs, and what it never touches."""

LITTLE = {
    "base.workers": 2,
    "base.checkpoint_seconds": 0,
    "download.sample.images": 80,
    "weights.clip": {"source": "path", "name": "given/clip", "pretrained": None, "revision": None},
    "weights.blip2": {"source": "path", "name": "given/blip2", "revision": None},
    "weights.troika_clip": {
        "source": "pretrain", "name": None, "pretrained": None, "revision": None,
    },
    "weights.pretrain.images": 128,
    "weights.pretrain.clip_image_epochs": 1,
    "weights.pretrain.clip_text_epochs": 1,
    "troika_train.epochs": 1,
    "finetune.epochs": 2,
    "finetune.caption_every": 1,
    "finetune.caption_images": 4,
    "enhance.stability_images": 4,
    "report.photos": 40,
}  # fmt: skip


@dataclass(frozen=True)
class StageCommand:
    """A stage as ``dvc.yaml`` runs it.

    Attributes:
        name: of a ``foreach`` stage with its item: ``infer@base``.
        script: of ``stages/``, without its ending.
        arguments: after the script.
        inputs: files and folders that other stages wrote and it reads.
        outputs: files and folders that it writes, which DVC removes before it runs.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return [str(ROOT / "stages" / f"{self.script}.py"), *self.arguments]


class BaselineError(RuntimeError):
    """The small project does not run as it is."""


def given_models(folder: Path) -> Path:
    """The folder with the pretrained models of a finished run.

    Raises:
        SystemExit: it lacks one; with what helps.
    """
    models = folder.resolve()
    missing = [name for name in MODELS if not (models / name).is_dir()]
    if missing:
        sys.exit(f"{models} has no {missing[0]}: run `make repro` first, name the models of a "
                 "finished run with --models, or take --light")  # fmt: skip
    return models


def stage_commands(folder: Path) -> dict[str, StageCommand]:
    """The stages of a project in the order in which they run."""
    definitions = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((folder / "params.yaml").read_text())
    commands = {}
    for name, definition in definitions.items():
        for key, item in definition.get("foreach", {None: {}}).items():
            values = {"key": str(key)} | {f"item.{one}": each for one, each in item.items()}
            whole = definition.get("do", definition)
            title = name if key is None else f"{name}@{key}"
            commands[title] = _command(title, whole, params, values)
    return commands


def _command(
    title: str, whole: Mapping[str, Any], params: Mapping[str, Any], values: Mapping[str, str]
) -> StageCommand:
    def resolved(text: str) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] in values:
                return values[match[1]]
            section, _, key = match[1].partition(".")
            return str(params[section][key])

        return re.sub(r"\$\{([\w.]+)\}", value, text)

    words = resolved(whole["cmd"]).split()
    place = next(place for place, word in enumerate(words) if word.endswith(".py"))
    outputs = [
        resolved(path)
        for kind in ("outs", "metrics", "plots")
        for entry in whole.get(kind, ())
        for path in (entry if isinstance(entry, dict) else [entry])
    ]
    inputs = [resolved(path) for path in whole["deps"]]
    read = [path for path in inputs if not path.startswith(("src/", "stages/"))]
    return StageCommand(
        title, Path(words[place]).stem, tuple(words[place + 1 :]), tuple(read), tuple(outputs)
    )


class SmallProject:
    """A project whose stages have run, with a copy of how they left it.

    Attributes:
        project: the workspace.
        stages: in their order; of a project without models the light ones.
        seconds: what each took, by name.
    """

    def __init__(self, folder: Path, models: Path | None, changes: Mapping[str, Any]) -> None:
        """Make it and run it.

        Args:
            folder: to make it in.
            models: the folder with pretrained models of a finished run; None: only the light
                stages.
            changes: of parameters, by their dotted names, beside :data:`LITTLE`.

        Raises:
            BaselineError: a stage failed; with what it said.
        """
        self.project = copy_project(ROOT, folder / "project", folder / "home")
        self.root = self.project.root
        self.variables = environment(self.project.home)
        for model in MODELS if models is not None else ():
            shutil.copytree(models / model, self.root / "given" / model)
        self.project.change(LITTLE | dict(changes))
        if models is None:
            _keep_stages(self.root / "dvc.yaml", LIGHT)
        self.stages = stage_commands(self.root)
        self.seconds: dict[str, float] = {}
        for name, command in self.stages.items():
            ended = self.run(command)
            if ended.status:
                raise BaselineError(f"{name} fails in {self.root}:\n{ended.said(40)}")
            self.seconds[name] = ended.seconds
        self.pristine = folder / "pristine"
        shutil.copytree(self.root, self.pristine, ignore=_unwatched)
        shutil.copytree(self.root / "rows", self.pristine / "rows")
        self._listing = _listing(self.pristine)
        self.digests = {name: self.digest(each) for name, each in self.stages.items()}

    def run(self, command: StageCommand, **settings: Any) -> Ended:
        """Run a stage, as :func:`run_stage`."""
        return run_stage(command.words, self.root, self.variables, **settings)

    def clear(self, command: StageCommand, rows: bool) -> None:
        """Remove a stage's outputs, as DVC does, and what was computed of rows."""
        for path in command.outputs:
            _remove(self.root / path)
        if rows:
            _remove(self.root / "rows")

    def digest(self, command: StageCommand) -> dict[str, str]:
        """SHA-256 of every file that the stage wrote."""
        found = {}
        for output in command.outputs:
            path = self.root / output
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    name = str(file.relative_to(self.root))
                    found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        return found

    def differences(self, command: StageCommand) -> list[str]:
        """Files of the stage that are missing, new, or have other bytes than at first."""
        now, first = self.digest(command), self.digests[command.name]
        return [name for name in sorted(now | first) if now.get(name) != first.get(name)]

    def leftovers(self) -> list[str]:
        """What lies in the project now and did not when its stages had run."""
        watched = {name for name in _listing(self.root) if name.split("/")[0] not in UNWATCHED}
        rows = {str(path.relative_to(self.root)) for path in (self.root / "rows").rglob(".*")}
        return sorted((watched - self._listing.keys()) | rows)

    def restore(self) -> None:
        """Put everything back that changed."""
        now = _listing(self.root)
        changed = [
            name
            for name in now.keys() | self._listing.keys()
            if now.get(name) != self._listing.get(name)
            and name.split("/")[0] not in set(UNWATCHED) - {"rows"}
        ]
        for name in sorted(changed, key=lambda one: one.count("/"), reverse=True):
            if name not in self._listing:
                _remove(self.root / name)
        for name in sorted(changed):
            source, target = self.pristine / name, self.root / name
            if name not in self._listing:
                continue
            if source.is_dir():
                target.mkdir(exist_ok=True)
                continue
            if target.is_dir():
                _remove(target)
            target.unlink(missing_ok=True)
            shutil.copy2(source, target)


def _keep_stages(path: Path, names: Collection[str]) -> None:
    """Have DVC know only some stages."""
    stages = yaml.safe_load(path.read_text())["stages"]
    kept = {name: stage for name, stage in stages.items() if name in names}
    path.write_text(yaml.safe_dump({"stages": kept}, sort_keys=False, width=1000))


_FOLDER = (-1, -1)


def _unwatched(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in UNWATCHED and (Path(folder) / "dvc.yaml").exists()]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _listing(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder by its path; a folder has neither."""
    found: dict[str, tuple[int, int]] = {}
    for folder, names, files in os.walk(root):
        if Path(folder) == root:
            names[:] = [name for name in names if name not in set(UNWATCHED) - {"rows"}]
        for name in names:
            found[str((Path(folder) / name).relative_to(root))] = _FOLDER
        for name in files:
            path = Path(folder) / name
            status = path.lstat()
            found[str(path.relative_to(root))] = (status.st_size, status.st_mtime_ns)
    return found


__all__ = [
    "LIGHT",
    "BaselineError",
    "Project",
    "SmallProject",
    "StageCommand",
    "given_models",
    "stage_commands",
]
