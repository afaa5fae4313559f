"""Versions of Python and of the libraries that the package depends on."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

_PACKAGE = "compositional-prompts"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def library_versions() -> dict[str, str]:
    """Name -> version: Python first, then the declared dependencies in alphabetical order.

    Libraries that only optional extras need are left out; one that is declared and not installed
    reads ``not installed``.
    """
    versions = {"Python": platform.python_version()}
    declared = [text for text in requires(_PACKAGE) or [] if "extra ==" not in text]
    names = {match[0] for text in declared if (match := _NAME.match(text))}
    for name in sorted(names, key=str.casefold):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
