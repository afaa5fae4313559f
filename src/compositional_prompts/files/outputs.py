"""Outputs that appear whole or not at all."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _keep_mode(path: Path, temporary: Path) -> None:
    """Give ``temporary`` the permissions of what it replaces; what is new follows the umask."""
    if path.exists():
        shutil.copymode(path, temporary)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place if the block succeeds."""
    temporary = _beside(path)
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        _keep_mode(path, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside ``path`` that takes its place if the block succeeds."""
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        _keep_mode(path, temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def rounded(value: Any, digits: int = 4) -> Any:
    """``value`` with every float in it rounded, so that metrics diff without noise."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value


def write_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """Write nested metrics as JSON, floats rounded to 4 decimals.

    Raises:
        ValueError: a metric is NaN or infinite, which JSON cannot carry.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(rounded(metrics), indent=2, allow_nan=False) + "\n")
