"""Outputs that appear whole or not at all, and what may be wrong with one that is read
or with an item of it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

_SAID: Final = 200
"""Characters of what a library says that are passed on."""


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


class FullDiskError(OutputError, OSError):
    """There is no room to write; the message names what was to be written."""


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


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Name a file in whatever a library makes of bytes that are damaged, or of something else.

    Args:
        path: the file, or the folder of a library's files.
        expected: what it is read as, such as "Parquet table".

    Raises:
        DamagedOutputError: it could not be read.
        OSError: the system could not read it; by the name of ``path`` where it had none.
        OutputError, MemoryError: as inside.
    """
    try:
        yield
    except (OutputError, MemoryError):
        raise
    except Exception as error:
        # Arrow and torch give bad bytes for an OSError too, without a number, and seek to a
        # damaged offset, which the system calls an invalid argument.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            if error.filename is None and str(path) not in str(error):
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
        said = " ".join(str(error).split())[:_SAID]
        if isinstance(error, KeyError | IndexError | AttributeError | TypeError) or not said:
            said = f"{type(error).__name__}: {said}".rstrip(": ")
        raise DamagedOutputError(
            f"{path} is damaged ({said}): expected a {expected}.", path
        ) from error


def require_outputs(*paths: Path) -> None:
    """Check that every file or folder is there.

    Raises:
        MissingOutputError: naming all that are not.
    """
    missing = [path for path in dict.fromkeys(paths) if not path.exists()]
    if missing:
        raise MissingOutputError("\n  ".join(f"{path} is missing." for path in missing), *missing)


_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that is full, of a quota that is used up, and of a limit to a file's size."""

_LEAST_FREE: Final = 2**20
"""Bytes left on a disk that count as none."""

_HELD: Final = "held"
"""A file that is locked as long as the process lives that writes beside it."""


def full_disk(error: BaseException, path: Path) -> str | None:
    """What was said where the disk of ``path`` is full, and not all libraries say so; else None."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _FULL:
        return error.strerror or said
    if "No space left on device" in said:
        return said[:_SAID]
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    with suppress(OSError):
        if shutil.disk_usage(there).free < _LEAST_FREE:
            return said[:_SAID] or type(error).__name__
    return None


@contextmanager
def naming_written(path: Path, within: Path | None = None) -> Iterator[None]:
    """Name what is written inside in the errors of its disk.

    Args:
        path: what is written.
        within: a folder that nobody knows of, where that is prepared.

    Raises:
        FullDiskError: there is no room for it.
        OSError: as inside, of ``path`` where it was of something in ``within``.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        if (said := full_disk(error, path)) is not None:
            raise FullDiskError(
                f"{path} cannot be written: its disk is full ({said}). Make room: `dvc gc -w` "
                "removes results of other runs."
            ) from error
        if isinstance(error, OSError) and within is not None and error.errno is not None:
            named = str(error.filename)
            if named.startswith(str(within)):
                raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _held(folder: Path, *, anew: bool) -> int | None:
    """Lock a folder for this process; None where another has it, or removes it.

    Args:
        folder: it stays locked until the descriptor that is returned is closed, by the end of
            the process too.
        anew: whether it was made just now: where there are no locks it goes without.
    """
    try:
        # For writing: NFS locks nothing else.
        descriptor = os.open(folder / _HELD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            if not anew:
                raise
        if os.fstat(descriptor).st_nlink:  # whoever had it may have removed it
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of earlier attempts to write ``path``."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}")
    with os.scandir(path.parent) as entries:
        found = [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]
    for left in found:
        try:
            if left.is_dir() and not left.is_symlink():
                if (descriptor := _held(left, anew=False)) is None:
                    continue
                try:
                    shutil.rmtree(left)
                finally:
                    os.close(descriptor)
            else:
                left.unlink()
            log.info("removed %s, which a run that was killed has left", left)
        except FileNotFoundError:
            pass  # another process was faster
        except OSError as error:
            log.warning("%s, left by a run that was killed, stays: %s", left, error.strerror)


@contextmanager
def _prepared(path: Path) -> Iterator[Path]:
    """Yield a path, on the disk of ``path`` and not there yet, to write what takes its place.

    It lies in a folder of its own beside ``path`` which is locked meanwhile: what a killed process
    has left is told from what another one writes by that, and goes before the next attempt.
    """
    with naming_written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        descriptor = None
        while descriptor is None:
            folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            folder.mkdir()
            try:
                descriptor = _held(folder, anew=True)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    try:
        with naming_written(path, folder):
            yield folder / "new"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _keep_mode(path: Path, temporary: Path) -> None:
    """Give ``temporary`` the permissions of what it replaces; what is new follows the umask."""
    if path.exists():
        shutil.copymode(path, temporary)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path of an empty file that takes the place of ``path`` if the block succeeds.

    Raises:
        FullDiskError: there is no room for it.
    """
    with _prepared(path) as temporary:
        temporary.touch(exist_ok=False)
        yield temporary
        _keep_mode(path, temporary)
        temporary.replace(path)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory that takes the place of ``path`` if the block succeeds.

    Raises:
        FullDiskError: there is no room for it.
    """
    with _prepared(path) as temporary:
        temporary.mkdir()
        yield temporary
        _keep_mode(path, temporary)
        if path.exists():
            path.rename(temporary.with_name("old"))
        temporary.rename(path)


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
