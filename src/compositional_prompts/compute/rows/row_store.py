"""Rows kept between runs, by computation and key: on disk, for all processes of a machine.

``PATH/NAME/FINGERPRINT/`` has the rows of one computation: ``computation.json`` (what decides
them, and by its time of change when they were last used), ``in-use``, which whoever has it open
holds a lock on, and files of rows (:mod:`~compositional_prompts.compute.rows.row_segments`).
``PATH/row-store.json`` says that the folder is a store, and in which layout.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from compositional_prompts.compute.rows.key_index import KeyIndex
from compositional_prompts.compute.rows.row_segments import (
    ADOPTED_SUFFIX,
    SEGMENT_SUFFIX,
    DamagedRowsError,
    new_name,
    read_adopted,
    read_segment,
    row_files,
    share_again,
)
from compositional_prompts.compute.rows.store_errors import (
    MissingRowError,
    RowStoreError,
    named_errors,
)
from compositional_prompts.compute.rows.stored_rows import StoredRows
from compositional_prompts.files.outputs import atomic_file

__all__ = ["Computed", "MissingRowError", "RowStore", "RowStoreError", "StoredRows"]

log = logging.getLogger(__name__)

LAYOUT: Final = 1
MARKER: Final = "row-store.json"
DESCRIPTION: Final = "computation.json"
IN_USE: Final = "in-use"
_GIB: Final = 2**30
_REMOVED: Final = ".removed-"
_PLAIN: Final = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Computed:
    """A computation that the store has rows of.

    Attributes:
        folder: where.
        name: of the computation.
        fingerprint: of what decides its rows.
        description: what decides its rows.
        bytes: on disk.
        used: when it was last opened or closed, seconds since 1970.
    """

    folder: Path
    name: str
    fingerprint: str
    description: Mapping[str, Any]
    bytes: int
    used: float


class RowStore:
    """The store at a path. Several processes may read and write it at once."""

    def __init__(self, path: Path, max_gib: float) -> None:
        """Make the store if it is not there.

        Args:
            path: a folder for rows alone.
            max_gib: above it the computations that were not used for longest go, but none that a
                process has open.

        Raises:
            RowStoreError: the path is something else, of another version, or cannot be written.
        """
        self.path = path
        self.max_bytes = max_gib * _GIB
        self._warned = False
        with named_errors(path):
            self._require_layout()

    def _require_layout(self) -> None:
        marker = self.path / MARKER
        if not marker.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            others = sorted(
                path.name for path in self.path.iterdir() if not path.name.startswith(f".{MARKER}")
            )
            if others and not marker.exists():
                raise RowStoreError(
                    f"{self.path} is no store of rows: it has {others[0]}, and no {MARKER}. Set "
                    "base.rows.path to a folder for rows alone."
                )
            if not marker.exists():
                with atomic_file(marker) as temporary:
                    temporary.write_text(json.dumps({"layout": LAYOUT}) + "\n")
        try:
            layout = json.loads(marker.read_text())["layout"]
        except (ValueError, KeyError, TypeError) as error:
            raise RowStoreError(
                f"{marker} is damaged: remove {self.path}, whose rows are then computed again."
            ) from error
        if layout != LAYOUT:
            raise RowStoreError(
                f"{self.path} is of layout {layout}, this version has {LAYOUT}: set base.rows.path "
                "to another folder, or remove this one, whose rows are then computed again."
            )

    def open(self, name: str, fingerprint: str, description: Mapping[str, Any]) -> StoredRows:
        """Open the rows of a computation; the caller closes them.

        Args:
            name: of the computation: letters, digits, ``_``, ``-`` and ``.``.
            fingerprint: of all that decides a row, as ``name``.
            description: what that is, for people; as JSON holds it.

        Raises:
            ValueError: a name is not plain.
            RowStoreError: the store cannot be used.
        """
        for plain in (name, fingerprint):
            if not _PLAIN.fullmatch(plain):
                raise ValueError(f"{plain!r} is no plain name of a folder.")
        folder = self.path / name / fingerprint
        with named_errors(folder):
            lock = _hold(folder)
            try:
                described = folder / DESCRIPTION
                if not described.exists():
                    text = {"name": name, "description": dict(description), "made": time.time()}
                    with atomic_file(described) as temporary:
                        temporary.write_text(json.dumps(text, indent=2) + "\n")
                _touch(described)
                self._share_again()
                self._make_room()
                return StoredRows(folder, self._make_room, partial(self._let_go, lock, described))
            except BaseException:
                os.close(lock)
                raise

    def _let_go(self, lock: int, described: Path) -> None:
        with contextlib.suppress(OSError):
            os.close(lock)
        _touch(described)

    def _share_again(self) -> None:
        """Share adopted files with their outputs where DVC has copied these meanwhile."""
        files = [path for folder in self._folders() for path in _inside(folder)]
        adopted = [path for path in files if path.suffix == ADOPTED_SUFFIX]
        for path in sorted(adopted, reverse=True):  # newest first
            with contextlib.suppress(OSError, DamagedRowsError):  # it stays a copy
                share_again(path)

    def _folders(self) -> list[Path]:
        """Of all computations; another process may remove some of them at any time."""
        names = [name for name in _inside(self.path) if not name.name.startswith(_REMOVED)]
        return [folder for name in names for folder in _inside(name)]

    def computations(self) -> list[Computed]:
        """What there are rows of, the last used first."""
        found = []
        for folder in self._folders():
            described = folder / DESCRIPTION
            if not described.exists():
                continue
            try:
                used = described.stat().st_mtime
                size = sum(path.stat().st_size for path in _inside(folder))
                description = json.loads(described.read_text())["description"]
            except FileNotFoundError:  # another process removes it, or replaces a file
                if not folder.is_dir():
                    continue
                return self.computations()
            except (ValueError, KeyError, TypeError):
                description = {}  # damaged; its rows are not
            name = folder.parent.name
            found.append(Computed(folder, name, folder.name, description, size, used))
        return sorted(found, key=lambda computed: -computed.used)

    def count_rows(self, computed: Computed) -> int:
        """How many keys have a row, as far as headers tell; neither opened nor changed."""
        index = KeyIndex()
        for path in row_files(computed.folder):
            with contextlib.suppress(FileNotFoundError, DamagedRowsError):
                if path.suffix == SEGMENT_SUFFIX:
                    keys = read_segment(path).keys
                else:
                    _, keys = read_adopted(path)
                index.add(keys, np.zeros(len(keys), np.int64))
        return index.count()

    def verify(self, computed: Computed) -> list[Path]:
        """Read all rows of a computation; what is damaged is set aside, and computed again.

        It does not count as used.

        Returns:
            The damaged files.

        Raises:
            RowStoreError: the store cannot be used.
        """
        with self.open(computed.name, computed.fingerprint, computed.description) as stored:
            damaged = stored.check()
        with contextlib.suppress(OSError):
            os.utime(computed.folder / DESCRIPTION, (computed.used, computed.used))
        return damaged

    def remove(self, computed: Computed) -> bool:
        """Remove the rows of a computation; False where a process has them open.

        Raises:
            RowStoreError: they cannot be removed.
        """
        with named_errors(computed.folder):
            try:
                lock = _opened(computed.folder / IN_USE, os.O_CREAT)
            except FileNotFoundError:
                return True
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                gone = self.path / f"{_REMOVED}{new_name()}"
                computed.folder.rename(gone)
            except BlockingIOError:
                return False
            except FileNotFoundError:  # another process was first
                return True
            finally:
                os.close(lock)
            with contextlib.suppress(FileNotFoundError):  # another process helps
                shutil.rmtree(gone)
            with contextlib.suppress(OSError):
                computed.folder.parent.rmdir()
        return True

    def prune(self, max_bytes: float) -> list[Computed]:
        """Remove the computations that were not used for longest until the rest fits.

        None that a process has open.

        Returns:
            Those that are gone.
        """
        for left in self.path.glob(f"{_REMOVED}*"):
            shutil.rmtree(left, ignore_errors=True)
        computations = self.computations()
        total = sum(computed.bytes for computed in computations)
        gone = []
        while computations and total > max_bytes:
            oldest = computations.pop()
            if self.remove(oldest):
                gone.append(oldest)
                total -= oldest.bytes
        return gone

    def _make_room(self) -> None:
        """Keep to the bound."""
        try:
            for computed in self.prune(self.max_bytes):
                log.info("removed %s: it was not used for longest", computed.folder)
        except RowStoreError as error:
            log.warning("warning: %s", error)
        total = sum(computed.bytes for computed in self.computations())
        if total > self.max_bytes and not self._warned:
            self._warned = True
            log.warning(
                "warning: %s has %.1f GiB of rows that are in use, more than base.rows.max_gib "
                "(%g): they are kept for now; raise it, so that what this run needs stays",
                *(self.path, total / _GIB, self.max_bytes / _GIB),
            )


def _inside(folder: Path) -> list[Path]:
    """What is in a folder; nothing where it is gone, or is none."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _hold(folder: Path) -> int:
    """Lock a computation's folder against removal, made if it is not there; the lock's descriptor.

    Raises:
        OSError: it cannot be made or locked.
    """
    path = folder / IN_USE
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _opened(path, os.O_CREAT)
        except FileNotFoundError:  # removed by another process in between
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _opened(path: Path, flags: int = 0) -> int:
    """For writing, without which NFS gives no lock against all others."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES) and path.exists():
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # what is there can be read
        raise


def _touch(described: Path) -> None:
    with contextlib.suppress(OSError):  # of another user, or on a disk that is only read
        os.utime(described)
