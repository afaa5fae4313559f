"""Files of which a test needs the names."""

from __future__ import annotations

from pathlib import Path


def make(directory: Path, *names: str) -> Path:
    """Write files that hold their own names into ``directory``; returns it."""
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return directory
