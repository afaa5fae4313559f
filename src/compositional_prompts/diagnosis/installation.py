"""Python, the packages, and the programs that stages are started with."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from compositional_prompts.diagnosis.finding import Finding, error, ok, warning
from compositional_prompts.pipeline.section import QUANTIZED
from compositional_prompts.project.whole_params import Params

DISTRIBUTION = "compositional-prompts"
INSTALL = "run `pip install -c constraints.txt -e .` in the project's environment."


def examine_python(version: str = platform.python_version()) -> Iterator[Finding]:
    """This interpreter against what the package requires."""
    required = _required_python()
    if required is not None and version not in SpecifierSet(required):
        yield error(
            f"Python {version}, and {required} is required: make an environment of a newer one, "
            f"and there {INSTALL}"
        )
        return
    yield ok(f"Python {version}, {sys.executable}")


def _required_python() -> str | None:
    try:
        return metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except metadata.PackageNotFoundError:
        return None


def examine_packages(requirements: list[str] | None = None) -> Iterator[Finding]:
    """The installed versions against the required ones, which are those of this package."""
    if requirements is None:
        try:
            requirements = metadata.requires(DISTRIBUTION) or []
        except metadata.PackageNotFoundError:
            yield warning(f"{DISTRIBUTION} is not installed, only imported: {INSTALL}")
            return
    wanted = [Requirement(line) for line in requirements]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = 0
    for requirement in wanted:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found = "is not installed"
        else:
            if requirement.specifier.contains(version, prereleases=True):
                continue
            found = f"is installed as {version}"
        wrong += 1
        yield error(f"{requirement.name} {found}, and {requirement} is required: {INSTALL}")
    if not wrong:
        yield ok(f"{len(wanted)} packages as required")


def examine_bitsandbytes(params: Params) -> Iterator[Finding]:
    """What precisions of few bits need."""
    sections = (params.blip2_features, params.finetune, params.infer)
    few = [f"{one.section}.precision" for one in sections if one.precision in QUANTIZED]
    if few and importlib.util.find_spec("bitsandbytes") is None:
        yield error(
            f"{' and '.join(few)} of few bits need bitsandbytes, which is not installed: "
            "run `pip install -c constraints.txt -e '.[quantization]'`, or choose bfloat16."
        )


def examine_programs() -> Iterator[Finding]:
    """``git``, ``dvc``, and the ``python`` that stages are started with."""
    for program, why in (("git", "for experiments and history"), ("dvc", "to run the pipeline")):
        place = shutil.which(program)
        if place is None:
            yield error(
                f"there is no {program} on PATH, {why}: activate the environment "
                f"(`source .venv/bin/activate`), or install it."
            )
        else:
            yield ok(f"{program}: {_version(place)}")
    place = shutil.which("python")
    if place is None:
        yield error(
            "there is no python on PATH, and stages are started with it: activate the "
            "environment (`source .venv/bin/activate`)."
        )
    elif Path(place).parent != Path(sys.executable).parent and not _imports(place):
        yield error(
            f"stages are started with {place}, which cannot import compositional_prompts, while "
            f"this is {sys.executable}: activate the environment (`source .venv/bin/activate`)."
        )


def _version(program: str) -> str:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as failed:
        return f"{program} does not start ({failed})"
    lines = (said.stdout or said.stderr).strip().splitlines()
    return lines[0] if said.returncode == 0 and lines else program


def _imports(python: str) -> bool:
    done = subprocess.run([python, "-c", "import compositional_prompts"], capture_output=True)
    return done.returncode == 0
