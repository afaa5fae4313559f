"""The project with stages that only write small files: what DVC's commands are tried on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from dvc_project import Project, copy_project

ROOT = Path(__file__).parents[2]
WRITER = "write_outputs.sh"
SOURCES = ("src/", "stages/")
_WRITER = """\
# Outputs that follow from their names alone, each in the form that its name asks for: a changed
# parameter then runs its stage again, and no stage after that.
set -e
write() {
    case $1 in
        *.json) echo '{"number": 1}' ;;
        *.csv) printf '%s\\n' "COLUMNS" "$(echo COLUMNS | sed 's/[^,]*/1/g')" ;;
        *.tsv) write "${1%.tsv}.csv" | tr , '\\t' ;;
        *) echo "$1" ;;
    esac
}
for path; do
    mkdir -p "$(dirname "$path")"
    case $(basename "$path") in
        *.*) write "$path" > "$path" ;;
        *) mkdir -p "$path"; write part.csv > "$path/part.csv" ;;
    esac
done
"""


def make_stand_in(root: Path, home: Path) -> Project:
    """The project's stages, parameters and graph, each stage in milliseconds; not run yet.

    Args:
        root: the folder to make.
        home: where DVC keeps what it shares between projects.
    """
    project = copy_project(ROOT, root, home)
    definition = yaml.safe_load((root / "dvc.yaml").read_text())
    columns = ",".join(sorted({*_columns(definition), "truth", "predicted"}))
    (root / WRITER).write_text(_WRITER.replace("COLUMNS", columns))
    stages = list(definition["stages"].values())
    bodies = [stage.get("do", stage) for stage in stages]
    read = set(_strings([stage.get("foreach", stage.get("deps")) for stage in stages]))
    for body in bodies:
        outs = list(_outputs(body))
        inside = sorted(dep for dep in read if any(dep.startswith(f"{out}/") for out in outs))
        body["cmd"] = " ".join(["sh", WRITER, *outs, *inside])
        # No source is run, and hashing it is most of what DVC does.
        body["deps"] = [dep for dep in body.get("deps", ()) if not dep.startswith(SOURCES)]
    (root / "dvc.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    project.commit("Stages that only write")
    return project


def _outputs(stage: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, ()):
            yield from [entry] if isinstance(entry, str) else entry


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, list | Mapping):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _strings(value)


def _columns(node: Any, key: str = "") -> Iterator[str]:
    """Every name of a column that a plot of ``dvc.yaml`` asks for."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _columns(value, name if name in ("x", "y") else key)
    elif isinstance(node, list):
        for value in node:
            yield from _columns(value, key)
    elif key in ("x", "y") and isinstance(node, str):
        yield node
