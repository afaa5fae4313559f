"""A clone of the last commit that works with the pretrained models of a finished run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

ROOT: Final = Path(__file__).resolve().parents[2]


class ClonedProject:
    """The project in a folder of its own.

    Attributes:
        root: of the clone.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        """Clone, and take the pretrained models of the finished run in ``run``."""
        self.root = folder / "project"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.root)], check=True)
        self._environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
        self._environment.pop("PYTHONPATH", None)
        self._environment["DVC_SITE_CACHE_DIR"] = str(folder / "site")
        models = folder / "models"
        for model in ("clip", "blip2"):
            shutil.copytree(run / "models" / model, models / model)

        def take(document: dict[str, Any]) -> None:
            for model in ("clip", "blip2"):
                document["weights"][model]["source"] = "path"
                document["weights"][model]["name"] = str(models / model)

        self.edit(take)

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change params.yaml."""
        editor = YAML()
        path = self.root / "params.yaml"
        document = editor.load(path)
        change(document)
        editor.dump(document, path)

    def run(self, *command: str, variables: Mapping[str, str] | None = None) -> str:
        """The output of a command in the clone; what it says goes to standard error here.

        Args:
            command: its words.
            variables: of its environment, beside those of this process.
        """
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**self._environment, **(variables or {})},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    def repro(
        self, variables: Mapping[str, str] | None = None
    ) -> tuple[float, dict[str, dict[str, Any]]]:
        """Seconds of ``dvc repro``, and what each stage that ran measured.

        Args:
            variables: of its environment, beside those of this process.
        """
        shutil.rmtree(self.root / "timing", ignore_errors=True)
        # DVC does not look into folders outside its outputs: new photos are for download alone.
        self.run("dvc", "repro", "-q", "-f", "download", variables=variables)
        start = time.perf_counter()
        self.run("dvc", "repro", "-q", variables=variables)
        seconds = time.perf_counter() - start
        files = sorted((self.root / "timing").glob("*.json"))
        records = {path.stem: json.loads(path.read_text()) for path in files}
        return seconds + records["download"]["seconds"], records

    def metrics(self, name: str) -> Any:
        """A file of ``metrics/``."""
        return json.loads((self.root / "metrics" / f"{name}.json").read_text())
