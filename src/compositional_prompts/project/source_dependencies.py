"""What each stage's script imports of this package, kept in step with ``dvc.yaml``.

DVC reruns a stage when one of its dependencies changes; a source file that is missing there would
leave stale results in the cache.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from compositional_prompts.compute.imported_files import PACKAGE, imported_files
from compositional_prompts.files.outputs import atomic_file

SOURCE = Path("src")

NEUTRAL = SOURCE / PACKAGE.name / "compute" / "progress.py"
"""Progress bars, which half of the package shows and which decide no output."""


def source_dependencies(root: Path, script: Path) -> list[Path]:
    """What a stage depends on: its script, then every file of the package that it imports.

    A folder that it imports every file of stands for them, so that adding one of those that it
    does not import takes the folder apart again and the stage never waits for a stranger.
    """
    imported = imported_files(root / script, root / SOURCE)
    files = {file.relative_to(root) for file in imported} - {NEUTRAL}
    package = SOURCE / PACKAGE.name
    folders: list[Path] = []
    for folder in sorted({parent for file in files for parent in file.parents}):
        if folder.is_relative_to(package) and not any(map(folder.is_relative_to, folders)):
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
