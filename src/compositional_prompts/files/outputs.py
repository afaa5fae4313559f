"""Outputs that appear whole or not at all, and what may be wrong with one that is read
or with an item of it."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class OutputError(Exception):
    """What a stage wrote is not there, or not as its reader needs it.

    The message ends where the remedy begins: which stage to run stands in ``dvc.yaml`` alone.

    Attributes:
        paths: the files or folders to be made again.
    """

    def __init__(self, message: str, *paths: Path) -> None:
        super().__init__(message)
        self.paths = paths


class MissingOutputError(OutputError, FileNotFoundError):
    """An output is not there."""


class DamagedOutputError(OutputError, ValueError):
    """An output is not as its stage writes it."""


class MismatchedOutputsError(OutputError, ValueError):
    """Outputs do not belong together: one was made from another state of the other."""


class UnusableItemError(OutputError, ValueError):
    """What an item holds cannot be computed on. :func:`naming` puts its name before the message."""


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name the item that is prepared inside in the errors that do not know it.

    Raises:
        UnusableItemError, MemoryError: as inside, with the name.
    """
    try:
        yield
    except UnusableItemError as error:
        raise type(error)(f"{name}: {error}", *error.paths) from error
    except MemoryError as error:
        raise MemoryError(
            f"{name}: {str(error) or 'too little memory to prepare it'}; lower base.workers or "
            "base.ray.actors"
        ) from error


def require_outputs(*paths: Path) -> None:
    """Check that every file or folder is there.

    Raises:
        MissingOutputError: naming all that are not.
    """
    missing = [path for path in dict.fromkeys(paths) if not path.exists()]
    if missing:
        raise MissingOutputError("\n  ".join(f"{path} is missing." for path in missing), *missing)


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
