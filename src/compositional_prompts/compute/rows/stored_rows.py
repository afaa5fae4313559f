"""The rows of one computation: which are there, more of them, and reading them by key."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.rows.computation import KEY
from compositional_prompts.compute.rows.key_index import ABSENT, KeyIndex, first_occurrences
from compositional_prompts.compute.rows.row_segments import (
    ADOPTED_SUFFIX,
    BLOCK_BYTES,
    SEGMENT_BYTES,
    SEGMENT_SUFFIX,
    SIDECAR_SUFFIX,
    DamagedRowsError,
    MappedFiles,
    RowFile,
    SegmentWriter,
    adopt_file,
    cut_unfinished,
    is_whole,
    keys_digest,
    new_name,
    read_adopted,
    read_segment,
    remove_adopted,
    remove_unless_written,
    row_files,
    set_block_aside,
    set_rows_aside,
)
from compositional_prompts.compute.rows.store_errors import (
    MissingRowError,
    RowStoreError,
    named_errors,
)
from compositional_prompts.files.scratch import link_or_copy

log = logging.getLogger(__name__)

CONFIRM_SECONDS: Final = 2.0
"""Rows are on disk at most so long after they were appended."""

LEFTOVER_SECONDS: Final = 3600
"""Age at which a file that nothing refers to is what a killed process left."""

_BYTES: Final = 44  # of a place: the low bits are a byte of a file, the others its number
_OFFSET: Final = (1 << _BYTES) - 1


class StoredRows:
    """The rows of one computation, open for reading and writing; threads may share it.

    What other processes confirmed before it was opened is there too. Memory: 24 bytes a row for
    the index, and what is not confirmed yet. Files are mapped, so what was read counts as resident,
    though the system takes it back where memory is short.

    Rows that were appended are *confirmed*, so that a killed process loses none of them, after at
    most :data:`CONFIRM_SECONDS` or 8 MiB, by :meth:`flush`, and when it is closed. They are then
    the operating system's to write: a power loss may take what it had not written yet, some 30
    seconds of rows on Linux. What it tears is found by checksums, and computed again.
    """

    def __init__(self, folder: Path, made_room: Callable[[], None], closed: Callable[[], None]):
        """Open the rows in a folder; :class:`RowStore` does.

        Args:
            folder: of the computation; it is there, and no other process removes it.
            made_room: is called when much has been written.
            closed: is called when it is closed.
        """
        self._folder = folder
        self._made_room = made_room
        self._closed = closed
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._maps = MappedFiles()
        self._dtype: np.dtype[Any] | None = None
        self._files: list[RowFile] = []
        self._index = KeyIndex()
        self._sound: set[tuple[str, int]] = set()
        self._aside: set[tuple[str, int]] = set()  # where they cannot be marked in their file
        self._writer: SegmentWriter | None = None
        self._damaged: dict[Path, None] = {}
        self._waiting: list[tuple[NDArray[np.void], NDArray[Any]]] = []
        self._waiting_bytes = 0
        self._timer: threading.Timer | None = None
        self._failure: RowStoreError | None = None
        self._load()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            with contextlib.suppress(RowStoreError):  # the error at hand came first
                self.close()

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Of a row; None where none was ever stored."""
        return self._dtype

    def missing(self, keys: NDArray[np.void]) -> NDArray[np.int64]:
        """Which keys have no row here.

        The rows of the others are checked: damaged ones are named in a warning, set aside, and so
        missing.

        Args:
            keys: ``V16 [n]``.

        Returns:
            Positions of the first occurrence of every key without a row, ascending, int64 ``[m]``.

        Raises:
            RowStoreError: a file cannot be read, or rows before these not be written.
        """
        _check_keys(keys)
        with self._lock, named_errors(self._folder):
            self.flush()
            absent = np.flatnonzero(self._sound_places(keys) == ABSENT)
            return absent[first_occurrences(keys[absent])]

    def append(self, keys: NDArray[np.void], rows: NDArray[Any]) -> None:
        """Keep rows. Keys that are there already are harmless: their rows are the same.

        Args:
            keys: ``V16 [n]``.
            rows: structured array ``[n]`` of the one dtype of this computation.

        Raises:
            ValueError: they are not as said.
            RowStoreError: they, or rows before them, cannot be written; the disk is full.
        """
        _check_keys(keys)
        _check_dtype(rows.dtype)
        if rows.shape != keys.shape:
            raise ValueError(f"{keys.shape} keys and {rows.shape} rows were given.")
        with self._lock:
            self._require_own_process()
            self._raise_failure()
            self._require_dtype(rows.dtype)
            if not len(keys):
                return
            self._waiting.append((keys.copy(), rows.copy()))
            self._waiting_bytes += rows.nbytes
            if self._waiting_bytes >= BLOCK_BYTES:
                self.flush()
            elif self._timer is None:
                self._timer = threading.Timer(CONFIRM_SECONDS, self._confirm)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Confirm all rows appended so far.

        Raises:
            RowStoreError: they cannot be written.
        """
        with self._lock:
            self._raise_failure()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not self._waiting:
                return
            waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
            keys = np.concatenate([keys for keys, _ in waiting])
            rows = np.concatenate([rows for _, rows in waiting])
            step = max(BLOCK_BYTES // rows.dtype.itemsize, 1)
            for first in range(0, len(keys), step):
                self._write(keys[first : first + step], rows[first : first + step])

    def read(self, keys: NDArray[np.void]) -> NDArray[Any]:
        """Rows of keys, in their order.

        Args:
            keys: ``V16 [n]``, in any order, also several times.

        Returns:
            Structured array ``[n]``, a copy.

        Raises:
            MissingRowError: one has no row here, or it was found to be damaged just now.
            RowStoreError: a file cannot be read.
        """
        _check_keys(keys)
        with self._lock, named_errors(self._folder):
            self.flush()
            while True:
                places = self._sound_places(keys)
                absent = np.flatnonzero(places == ABSENT)
                if len(absent):
                    raise MissingRowError(
                        f"{self._folder}: {len(absent)} of {len(keys)} rows are not there, the "
                        f"first of key {keys[absent[0]].tobytes().hex()}: run the stage again, "
                        "which computes them."
                    )
                try:
                    return self._gather(places)
                except (FileNotFoundError, DamagedRowsError):
                    self._load()  # another process has replaced it, or it was cut

    def adopt(
        self,
        file: Path,
        keys: NDArray[np.void],
        dtype: np.dtype[Any],
        offset: int,
        output: Path | None = None,
    ) -> None:
        """Let a finished output be where rows lie, so that they need not be kept twice.

        The file is linked into the store, or cloned, or copied to another file system; what of the
        store's files it covers goes. It must never be changed in place; that would be found.

        Args:
            file: the output.
            keys: of its rows in their order, ``V16 [n]``.
            dtype: of a row, as that of :meth:`append`.
            offset: byte of the first row; the others follow without a gap.
            output: where the file is going to lie, if not where it does; DVC may put a copy there,
                which is then shared instead.

        Raises:
            ValueError: the file is shorter, or a row of it is not that which is stored.
            RowStoreError: the store cannot be written.
        """
        _check_keys(keys)
        _check_dtype(dtype)
        with self._lock:
            self._require_own_process()
            self.flush()
            self._require_dtype(dtype)
            if not len(keys):
                return
            end = offset + len(keys) * dtype.itemsize
            size = file.stat().st_size
            if size < end:
                raise ValueError(f"{file} has {size} bytes; {len(keys)} rows end at {end}.")
            known = self.file_of(keys)
            if known is not None and (
                known.samefile(file) or known.stat().st_dev != file.stat().st_dev
            ):
                return
            self._require_stored(file, keys, dtype, offset)
            path = self._folder / f"{new_name()}{ADOPTED_SUFFIX}"
            try:
                with named_errors(path):
                    link_or_copy(file.resolve(), path)
                    adopt_file(path, keys, dtype, offset, output or file)
            except BaseException:
                with contextlib.suppress(OSError):
                    remove_adopted(path)
                raise
            self._close_writer()
            self._load()
            self._remove_covered(path)

    def file_of(self, keys: NDArray[np.void]) -> Path | None:
        """A file that was adopted with exactly these keys in this order, every byte as it was.

        Args:
            keys: ``V16 [n]``.

        Returns:
            Where it lies in the store, to be linked and never written; or None.
        """
        _check_keys(keys)
        order = keys_digest(keys)
        with self._lock:
            for rows in self._files:
                same = rows.adopted is not None and rows.adopted.order == order
                with contextlib.suppress(FileNotFoundError, DamagedRowsError):
                    if same and is_whole(rows, self._maps):
                        return rows.path
        return None

    def check(self) -> list[Path]:
        """Read everything; what is damaged is named and set aside as in :meth:`missing`.

        Returns:
            Files that were damaged, those too that were found so before.
        """
        with self._lock:
            self.flush()
            while True:
                try:
                    if unsound := self._unsound_blocks(
                        [(rows, range(len(rows.offsets))) for rows in self._files]
                    ):
                        self._set_aside(unsound)
                        continue
                    adopted = [rows for rows in self._files if rows.adopted and rows.adopted.whole]
                    broken = [rows.path for rows in adopted if not is_whole(rows, self._maps)]
                    break
                except FileNotFoundError:  # another process has replaced it
                    self._load()
            for path in broken:
                self._complain(path, f"{path} is damaged beside its rows")
            return list(self._damaged)

    def __len__(self) -> int:
        """Rows that are there; of a key that was written twice both may count."""
        return len(self._index.places())

    def close(self) -> None:
        """Confirm what is left, and let others remove the computation.

        Raises:
            RowStoreError: it cannot be written.
        """
        with self._lock:
            try:
                self.flush()
            finally:
                self._close_writer()
                self._closed()
                self._closed = lambda: None  # a second call must not close another's descriptor

    # Writing

    def _confirm(self) -> None:
        """What the timer calls; whoever appends next is told of a failure."""
        with self._lock:
            self._timer = None
            try:
                self.flush()
            except RowStoreError as error:
                self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _write(self, keys: NDArray[np.void], rows: NDArray[Any]) -> None:
        if self._writer is not None and self._writer.rows.end >= SEGMENT_BYTES:
            self._close_writer()
            self._made_room()
        if self._writer is None:
            self._writer = self._resumed() or SegmentWriter.create(self._folder, rows.dtype)
            if not any(rows is self._writer.rows for rows in self._files):
                self._files.append(self._writer.rows)
        number = next(n for n, file in enumerate(self._files) if file is self._writer.rows)
        first = self._writer.write(keys, rows)
        self._sound.add((self._writer.rows.path.name, first))
        offsets = first + rows.dtype.itemsize * np.arange(len(keys), dtype=np.int64)
        self._index.add(keys, (number << _BYTES) + offsets)

    def _resumed(self) -> SegmentWriter | None:
        """The last segment, if it is short and nobody else writes it."""
        own = [
            rows
            for rows in self._files
            if rows.adopted is None and rows.end < SEGMENT_BYTES and rows.dtype == self._dtype
        ]
        return SegmentWriter.resume(own[-1]) if own else None

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _require_own_process(self) -> None:
        if os.getpid() != self._process:
            raise RowStoreError(f"{self._folder} was opened by another process, before a fork.")

    def _require_dtype(self, dtype: np.dtype[Any]) -> None:
        if self._dtype is None:
            self._dtype = dtype
        elif self._dtype != dtype:
            raise ValueError(f"{self._folder} has rows of {self._dtype}, and was given {dtype}.")

    # Reading

    def _gather(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Copy the rows at some places, each in a file."""
        if self._dtype is None:
            return np.empty(0, [])
        width = self._dtype.itemsize
        out = np.empty(len(places), f"V{width}")
        breaks = np.flatnonzero(np.diff(places) != width) + 1
        if 4 * len(breaks) <= len(places):  # rows mostly lie one after another
            target = out.view(np.uint8)
            read: set[Path] = set()
            for first, last in _runs(breaks, len(places)):
                rows, begin = self._place(int(places[first]))
                data = self._maps.map(rows.path, rows.end)
                size = (last - first) * width
                target[first * width : last * width] = data[begin : begin + size]
                read.add(rows.path)
            for path in read:  # in their order rows are read once
                self._maps.give_back(path)
        else:
            numbers = places >> _BYTES
            for number in np.unique(numbers).tolist():
                rows = self._files[number]
                data = self._maps.map(rows.path, rows.end)
                at_any_byte: NDArray[Any] = np.ndarray(
                    (len(data) - width + 1,), out.dtype, data, strides=(1,)
                )
                chosen = numbers == number
                out[chosen] = at_any_byte[places[chosen] & _OFFSET]
        return out.view(self._dtype)

    def _place(self, place: int) -> tuple[RowFile, int]:
        return self._files[place >> _BYTES], place & _OFFSET

    def _sound_places(self, keys: NDArray[np.void]) -> NDArray[np.int64]:
        """Places of keys whose rows have been checked; damaged ones are set aside."""
        while True:
            places = self._index.find(keys)
            found = places[places != ABSENT]
            numbers = found >> _BYTES
            wanted = (
                (self._files[number], found[numbers == number] & _OFFSET)
                for number in np.unique(numbers).tolist()
            )
            try:
                unsound = self._unsound_blocks(
                    [(rows, rows.blocks_of(offsets)) for rows, offsets in wanted]
                )
            except FileNotFoundError:  # another process has replaced it
                self._load()
                continue
            if not unsound:
                return places
            self._set_aside(unsound)

    def _unsound_blocks(self, wanted: list[Any]) -> list[tuple[RowFile, int]]:
        """Of blocks ``(file, numbers)`` those that are damaged; each is read once."""
        unsound = []
        for rows, blocks in wanted:
            for block in blocks:
                name = rows.path.name, rows.offsets[block]
                if name in self._sound:
                    continue
                if rows.is_sound(block, self._maps):
                    self._sound.add(name)
                else:
                    unsound.append((rows, block))
        return unsound

    def _set_aside(self, unsound: list[tuple[RowFile, int]]) -> None:
        for rows, block in reversed(unsound):  # numbers of blocks before it stay
            self._complain(
                rows.path,
                f"{rows.path} is damaged: {rows.counts[block]} rows from byte "
                f"{rows.offsets[block]} on are not used, and computed again when they are needed",
            )
            self._aside.add((rows.path.name, rows.offsets[block]))
            with contextlib.suppress(OSError):
                set_rows_aside(rows, block)
        self._load()

    # Opening

    def _load(self) -> None:
        """Read what is in the folder, again if another process moves it about."""
        while True:
            try:
                self._read_folder()
                return
            except FileNotFoundError:
                if not self._folder.is_dir():
                    raise RowStoreError(
                        f"{self._folder} was removed while it was in use: run the stage again."
                    ) from None

    def _read_folder(self) -> None:
        adopted: list[tuple[RowFile, NDArray[np.void]]] = []
        own: list[tuple[RowFile, NDArray[np.void]]] = []
        self._remove_leftovers()
        for path in row_files(self._folder):
            if path.suffix == ADOPTED_SUFFIX:
                if (read := self._read_adopted(path)) is not None:
                    adopted.insert(0, read)
            elif (read := self._read_segment(path)) is not None:
                own.append(read)
        files, entries = [], []
        adopted += own
        own.clear()
        for number, (rows, keys) in enumerate(adopted):
            if rows.offsets and self._dtype not in (None, rows.dtype):
                raise RowStoreError(
                    f"{rows.path} has rows of {rows.dtype}, others beside it of {self._dtype}: "
                    "remove this file."
                )
            if rows.offsets:
                self._dtype = rows.dtype
            files.append(rows)
            entries.append((keys, (number << _BYTES) + rows.places()))
            if self._writer is not None and rows.path == self._writer.rows.path:
                self._writer.rows = rows
        adopted.clear()
        self._index, self._files = KeyIndex(), files  # the old one goes before the new one is made
        self._index = KeyIndex(entries)

    def _read_segment(self, path: Path) -> tuple[RowFile, NDArray[np.void]] | None:
        try:
            read = read_segment(path)
        except DamagedRowsError as error:
            with contextlib.suppress(OSError):
                if path.stat().st_size and remove_unless_written(path):
                    self._complain(path, f"{error}: it is removed, its rows are computed again")
            return None
        rows = read.rows
        for begin, end, what in read.damage:
            self._complain(
                path,
                f"{path} is damaged at byte {begin} ({what}): rows up to byte {end} are computed "
                "again",
            )
            with contextlib.suppress(OSError):
                if end < read.size or begin < rows.end:
                    set_block_aside(path, begin, end)
        if read.size > rows.end:
            with contextlib.suppress(OSError):
                if cut_unfinished(path, rows.end, read.size) and not read.damage:
                    self._complain(
                        path,
                        f"{path} ends in an unfinished block of {read.size - rows.end} bytes: a "
                        "process was killed while it wrote, or the file was cut; its rows are "
                        "computed again",
                    )
        return self._without_aside(rows, read.keys)

    def _read_adopted(self, path: Path) -> tuple[RowFile, NDArray[np.void]] | None:
        try:
            rows, keys = read_adopted(path)
        except FileNotFoundError:  # it is being adopted now, or goes
            return None
        except DamagedRowsError as error:
            self._complain(path, f"{error}: its rows are computed again when they are needed")
            with contextlib.suppress(OSError):
                remove_adopted(path)
            return None
        return self._without_aside(rows, keys)

    def _without_aside(
        self, rows: RowFile, keys: NDArray[np.void]
    ) -> tuple[RowFile, NDArray[np.void]]:
        """Leave out blocks that were found damaged where their files cannot be written."""
        aside = [(rows.path.name, offset) in self._aside for offset in rows.offsets]
        if any(aside):
            keys = keys[~np.repeat(aside, rows.counts)]
            for values in (rows.offsets, rows.counts, rows.sums):
                values[:] = [value for value, out in zip(values, aside, strict=True) if not out]
            if rows.adopted is not None:
                rows.adopted = replace(rows.adopted, whole=False)
        return rows, keys

    def _complain(self, path: Path, said: str) -> None:
        self._damaged[path] = None
        log.warning("warning: %s", said)

    def _remove_leftovers(self) -> None:
        """Remove what processes left that were killed while they adopted a file."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                alone = (
                    (
                        path.suffix == ADOPTED_SUFFIX
                        and not path.with_suffix(SIDECAR_SUFFIX).exists()
                    )
                    or (
                        path.suffix == SIDECAR_SUFFIX
                        and not path.with_suffix(ADOPTED_SUFFIX).exists()
                    )
                    or path.name.startswith(".")
                )
                if alone and path.stat().st_ctime < time.time() - LEFTOVER_SECONDS:
                    path.unlink()

    # Adopting

    def _require_stored(
        self, file: Path, keys: NDArray[np.void], dtype: np.dtype[Any], offset: int
    ) -> None:
        """Refuse a file whose rows are not those that are stored under its keys."""
        step = max(BLOCK_BYTES // dtype.itemsize, 1)
        with file.open("rb") as opened:
            opened.seek(offset)
            for first in range(0, len(keys), step):
                some = keys[first : first + step]
                given = np.frombuffer(opened.read(len(some) * dtype.itemsize), f"V{dtype.itemsize}")
                known = np.flatnonzero(self._sound_places(some) != ABSENT)
                stored = self.read(some[known]).view(given.dtype) if len(known) else given[:0]
                if not np.array_equal(stored.view(np.uint8), given[known].view(np.uint8)):
                    raise ValueError(
                        f"{file}: of rows {first} to {first + len(some) - 1} some are not those "
                        f"that {self._folder} has under their keys."
                    )

    def _remove_covered(self, kept: Path) -> None:
        """Remove files of which every row lies elsewhere too."""
        used = np.bincount(self._index.places() >> _BYTES, minlength=len(self._files))
        covered = [rows for rows, n in zip(self._files, used.tolist(), strict=True) if not n]
        for rows in covered:
            if rows.path == kept:
                continue
            with contextlib.suppress(OSError):
                if rows.path.suffix == SEGMENT_SUFFIX:
                    remove_unless_written(rows.path, rows.end)
                else:
                    remove_adopted(rows.path)
        if covered:
            self._load()


def _runs(breaks: NDArray[np.int64], count: int) -> Iterator[tuple[int, int]]:
    """From where runs begin, but the first: ``(begin, end)`` of each."""
    edges = [0, *breaks.tolist(), count]
    return pairwise(edges) if count else iter(())


def _check_keys(keys: NDArray[Any]) -> None:
    if keys.dtype != KEY or keys.ndim != 1:
        raise ValueError(f"keys must be {KEY} [n]; they are {keys.dtype} {list(keys.shape)}.")


def _check_dtype(dtype: np.dtype[Any]) -> None:
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"rows must have a fixed number of bytes; they are of {dtype}.")
