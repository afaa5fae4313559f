"""A copy of the project in a folder of its own, driven through git and DVC as a user drives it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

TAIL = 60
"""Lines of a failed command's output that are shown."""

GENERATED = ("data", "models", "metrics", "reports")
"""Folders that the pipeline fills; of these only .gitignore files and GIVEN are the project's."""

GIVEN = ("models/source/train/troika", "models/source/train/captioner")
"""Files among them that stages read and nobody generates."""


class CommandFailedError(AssertionError):
    """A command that should succeed did not; the message ends with what it said last."""


@dataclass(frozen=True)
class Project:
    """A workspace of the pipeline with its own git history and nobody else's DVC settings.

    Attributes:
        root: the folder of ``dvc.yaml``.
        home: where DVC may keep what it shares between projects.
    """

    root: Path
    home: Path

    def environment(self) -> dict[str, str]:
        """Only this interpreter, this copy's sources, no hub, no settings of the machine."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DVC_"))
        }
        scripts = str(Path(sys.executable).parent)
        workers = int(inherited.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        if workers > 1:
            # Each worker's stages take its share: threads of several would wait for one another.
            threads = max(1, (os.cpu_count() or 1) // workers)
            inherited |= {"OMP_NUM_THREADS": str(threads)}
        return inherited | {
            "PATH": os.pathsep.join([scripts, inherited.get("PATH", os.defpath)]),
            "PYTHONPATH": str(self.root / "src"),
            "HF_HUB_OFFLINE": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.home / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(self.home / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.home / "system"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Test",
            "GIT_AUTHOR_EMAIL": "test@example.org",
            "GIT_COMMITTER_NAME": "Test",
            "GIT_COMMITTER_EMAIL": "test@example.org",
        }

    def attempt(self, *command: str | Path) -> tuple[int, str]:
        """Run a command in the workspace; its exit status and all that it wrote."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def run(self, *command: str | Path) -> str:
        """Run a command that must succeed; what it wrote."""
        status, output = self.attempt(*command)
        if status != 0:
            tail = "\n".join(output.splitlines()[-TAIL:])
            words = " ".join(map(str, command))
            raise CommandFailedError(f"`{words}` in {self.root} exits with {status}:\n{tail}")
        return output

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments)

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def commit(self, message: str) -> None:
        """Commit every change of a file that git does not ignore."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def change(self, changes: Mapping[str, Any]) -> None:
        """Set parameters in ``params.yaml``, by their dotted names."""
        path = self.root / "params.yaml"
        editor = YAML()
        editor.preserve_quotes = True
        document = editor.load(path.read_text())
        for name, value in changes.items():
            *groups, key = name.split(".")
            section = document
            for group in groups:
                section = section[group]
            if key not in section:
                raise KeyError(f"{path} has no parameter {name}")
            section[key] = value
        with path.open("w") as file:
            editor.dump(document, file)

    def metrics(self, name: str) -> dict[str, Any]:
        """``metrics/NAME.json``."""
        document: dict[str, Any] = json.loads((self.root / "metrics" / f"{name}.json").read_text())
        return document

    def stages(self) -> list[str]:
        """Every stage, those of a ``foreach`` each by itself (``infer@base``)."""
        document = yaml.safe_load((self.root / "dvc.yaml").read_text())
        names = []
        for name, definition in document["stages"].items():
            items = definition.get("foreach", definition.get("matrix"))
            names += [name] if items is None else [f"{name}@{item}" for item in items]
        return names

    def cached_outputs(self) -> dict[str, str]:
        """The hash in ``dvc.lock`` of every output that DVC keeps, by path."""
        lock = yaml.safe_load((self.root / "dvc.lock").read_text())
        definition = yaml.safe_load((self.root / "dvc.yaml").read_text())["stages"]
        uncached = {
            path
            for stage in definition.values()
            for kind in ("outs", "metrics", "plots")
            for entry in stage.get("do", stage).get(kind, ())
            if isinstance(entry, dict)
            for path, settings in entry.items()
            if not settings.get("cache", True)
        }
        return {
            out["path"]: out["md5"]
            for stage in lock["stages"].values()
            for out in stage["outs"]
            if not any(re.fullmatch(_pattern(path), out["path"]) for path in uncached)
        }


def _pattern(path: str) -> str:
    return ".+".join(re.escape(part) for part in re.split(r"\$\{\w+\}", path))


def copy_project(source: Path, root: Path, home: Path) -> Project:
    """The files of ``source`` that git knows or would take, without anything the pipeline made.

    Args:
        source: a checkout of the project.
        root: the folder to make.
        home: see :class:`Project`.
    """
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listing.split("\0")):
        path = Path(name)
        made = path.parts[0] in GENERATED and path.name != ".gitignore" and name not in GIVEN
        if made or name == "dvc.lock" or not (source / path).is_file():
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / path, root / path)
    project = Project(root, home)
    project.git("init", "--quiet", "--initial-branch", "main")
    project.commit("The project")
    return project


def ran(output: str) -> list[str]:
    """The stages that a ``dvc repro`` with this output ran, or with ``--dry`` would run."""
    return re.findall(r"^Running stage '([^']+)'", output, re.MULTILINE)
