"""What each stage's script imports of this package, kept in step with ``dvc.yaml``.

DVC reruns a stage when one of its dependencies changes; a source file that is missing there would
leave stale results in the cache.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from compositional_prompts.files.outputs import atomic_file

PACKAGE = "compositional_prompts"
SOURCE = Path("src")


def _module_file(root: Path, module: str) -> Path | None:
    """The file of a module of ours, relative to ``root``; None for a package or for others'."""
    file = SOURCE / Path(*module.split(".")).with_suffix(".py")
    return file if (root / file).is_file() else None


def _imported_modules(root: Path, file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((root / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_files(root: Path, script: Path) -> list[Path]:
    """Every file of the package that ``script`` imports, directly or not, sorted.

    Templates and style sheets that lie beside an imported module count as imported by it.
    ``__init__.py`` files hold nothing that a stage computes with and are left out.

    Args:
        root: the project's root, which the returned paths are relative to.
        script: a file below ``root``, relative to it.
    """
    found: set[Path] = set()
    pending = [script]
    while pending:
        file = pending.pop()
        for module in _imported_modules(root, file):
            if module.split(".")[0] != PACKAGE:
                continue
            imported = _module_file(root, module)
            if imported is not None and imported not in found:
                found.add(imported)
                pending.append(imported)
    beside = {
        path.relative_to(root)
        for folder in {file.parent for file in found}
        for path in (root / folder).iterdir()
        if path.suffix in (".jinja", ".css")
    }
    return sorted(found | beside)


def source_dependencies(root: Path, script: Path) -> list[Path]:
    """What a stage depends on: its script, then every file of the package that it imports.

    A folder that it imports every file of stands for them, so that adding one of those that it
    does not import takes the folder apart again and the stage never waits for a stranger.
    """
    files = set(imported_files(root, script))
    folders: list[Path] = []
    for folder in sorted({parent for file in files for parent in file.parents}):
        if folder.is_relative_to(SOURCE / PACKAGE) and not any(map(folder.is_relative_to, folders)):
            held = {path.relative_to(root) for path in (root / folder).rglob("*") if _counts(path)}
            if len(held) > 1 and held <= files:
                folders.append(folder)
    alone = {file for file in files if not any(map(file.is_relative_to, folders))}
    return [script, *sorted(alone | set(folders))]


def _counts(path: Path) -> bool:
    """Whether a file of a folder may change what is computed; DVC is told to ignore caches."""
    return path.is_file() and path.name != "__init__.py" and "__pycache__" not in path.parts


def stage_script(definition: Mapping[str, Any]) -> Path:
    """The script that a stage's ``cmd`` runs."""
    template = definition.get("do", definition)
    return next(Path(word) for word in template["cmd"].split() if word.endswith(".py"))


def is_source(dependency: str) -> bool:
    """Whether a dependency of ``dvc.yaml`` is code of ours rather than data."""
    return dependency.startswith(("stages/", f"{SOURCE}/"))


def sync_dependencies(root: Path) -> list[str]:
    """Rewrite the source files among the ``deps`` of every stage in ``dvc.yaml``.

    Data dependencies, their order and all comments stay.

    Returns:
        The names of the stages whose dependencies changed.
    """
    yaml = YAML()
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    path = root / "dvc.yaml"
    document = yaml.load(path.read_text())
    changed = []
    for name, definition in document["stages"].items():
        template = definition.get("do", definition)
        script = stage_script(definition)
        data = [dependency for dependency in template["deps"] if not is_source(dependency)]
        sources = [str(path) for path in source_dependencies(root, script)]
        if [*data, *sources] != list(template["deps"]):
            changed.append(str(name))
            template["deps"] = [*data, *sources]
    if changed:
        text = io.StringIO()
        yaml.dump(document, text)
        with atomic_file(path) as temporary:
            temporary.write_text(text.getvalue())
    return changed
