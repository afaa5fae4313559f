"""The source files that decide what a stage's script does: what it imports of this package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def _imported_modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_files(script: Path, source: Path = PACKAGE.parent) -> list[Path]:
    """Every file of the package that ``script`` imports, directly or not, sorted.

    Templates, style sheets and scripts of a page that lie beside an imported module count as
    imported by it.
    ``__init__.py`` files hold nothing that decides a result and are left out.

    Args:
        script: a file that imports the package.
        source: the folder that holds the package, which the returned paths lie in.
    """
    found: set[Path] = set()
    pending = [script]
    while pending:
        for module in _imported_modules(pending.pop()):
            name, *parts = module.split(".")
            file = Path(source, name, *parts).with_suffix(".py")
            if name == PACKAGE.name and file not in found and file.is_file():
                found.add(file)
                pending.append(file)
    beside = {
        path
        for folder in {file.parent for file in found}
        for path in folder.iterdir()
        if path.suffix in (".jinja", ".css", ".js")
    }
    return sorted(found | beside)
