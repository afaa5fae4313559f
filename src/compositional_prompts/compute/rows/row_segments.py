"""Files of rows of one computation: segments that are written here, and outputs that are adopted.

A **segment** ``*.rows`` is a header (magic, the dtype of a row as JSON, checksum) and blocks, each
written at once: a header of 64 bytes (magic, number of rows, checksums of keys, rows and header),
keys, rows. Nothing in it is changed later but the header of a block that is found damaged, which
then says so. A block that a killed process did not finish is at the end, and ends beyond the file.

An **adopted file** ``*.adopted`` is another's file, with rows of a fixed width from some byte on;
its sidecar ``*.keys`` has their keys, where they lie, and checksums of every part of the file.

Keys are checked by BLAKE2b whenever a file is opened; rows by CRC-32, as file systems do, once in a
process when they are first wanted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import secrets
import struct
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.rows.computation import KEY
from compositional_prompts.compute.rows.store_errors import named_errors
from compositional_prompts.files.outputs import atomic_file

BLOCK_BYTES: Final = 8 * 2**20
"""Bytes of rows in a block at most, unless one row is longer."""

SEGMENT_BYTES: Final = 256 * 2**20
"""Size at which a segment is followed by another."""

SEGMENT_SUFFIX: Final = ".rows"
ADOPTED_SUFFIX: Final = ".adopted"
SIDECAR_SUFFIX: Final = ".keys"

MAPPED_FILES: Final = 128
"""Files that a process keeps mapped: each takes descriptors, of which a process has few."""

_FILE: Final = b"CPROWS1\n"
_SIDECAR: Final = b"CPKEYS1\n"
_BLOCK: Final = b"CPBLOCK\n"
_ASIDE: Final = b"CPASIDE\n"
_FILE_HEAD: Final = struct.Struct("<8sII")  # magic, length and CRC-32 of the JSON that follows
_BLOCK_HEAD: Final = struct.Struct("<8sQQI4x16s")  # magic, rows, bytes to the next, CRC-32, keys
_DIGEST_BYTES: Final = 16
_HEAD_BYTES: Final = _BLOCK_HEAD.size + _DIGEST_BYTES


class DamagedRowsError(ValueError):
    """A file of rows is not as it was written; the message names it."""


def new_name() -> str:
    """A stem that no other process takes; later ones come later in the alphabet."""
    return f"{time.time_ns():016x}-{secrets.token_hex(4)}"


def dtype_to_json(dtype: np.dtype[Any]) -> Any:
    """A dtype as JSON holds it."""
    return np.lib.format.dtype_to_descr(dtype)


def dtype_of_json(described: Any) -> np.dtype[Any]:
    """The dtype of :func:`dtype_to_json`, after JSON has made lists of its tuples."""

    def as_field(part: list[Any]) -> tuple[Any, ...]:
        name, kind, *shape = part
        kind = [as_field(inner) for inner in kind] if isinstance(kind, list) else kind
        return (tuple(name) if isinstance(name, list) else name, kind, *map(tuple, shape))

    if isinstance(described, list):
        described = [as_field(part) for part in described]
    return np.lib.format.descr_to_dtype(described)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def keys_digest(keys: NDArray[np.void]) -> bytes:
    """A digest of keys in their order, 16 bytes."""
    return _digest(np.ascontiguousarray(keys).view(np.uint8).data)


@dataclass(eq=False)
class RowFile:
    """Rows in one file, in blocks with a checksum each.

    Attributes:
        path: the file.
        dtype: of a row.
        end: bytes of the file that are known.
        offsets: byte of the first row of every block, ascending.
        counts: rows of every block.
        sums: CRC-32 of the rows of every block.
        adopted: what else is known of an adopted file.
    """

    path: Path
    dtype: np.dtype[Any]
    end: int
    offsets: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    adopted: Adoption | None = None

    def blocks_of(self, offsets: NDArray[np.int64]) -> list[int]:
        """The blocks in which rows that begin at these bytes lie, each once."""
        blocks = np.searchsorted(np.array(self.offsets, np.int64), offsets, side="right") - 1
        return [int(block) for block in np.unique(blocks)]

    def places(self) -> NDArray[np.int64]:
        """The byte where every row begins, int64 ``[n]``."""
        width = self.dtype.itemsize
        parts = [
            start + width * np.arange(count, dtype=np.int64)
            for start, count in zip(self.offsets, self.counts, strict=True)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def is_sound(self, block: int, maps: MappedFiles) -> bool:
        """Whether the rows of a block are as they were written."""
        start = self.offsets[block]
        stop = start + self.counts[block] * self.dtype.itemsize
        try:
            data = maps.map(self.path, self.end)
        except DamagedRowsError:
            return False
        return zlib.crc32(data[start:stop].data) == self.sums[block]


@dataclass(frozen=True)
class Adoption:
    """What is known of an adopted file beside its blocks.

    Attributes:
        offset: byte of the first row.
        rows: how many there are, in damaged blocks too.
        order: :func:`keys_digest` of their keys.
        edges: CRC-32 of what stands before and after the rows.
        whole: whether no block was found damaged.
    """

    offset: int
    rows: int
    order: bytes
    edges: int
    whole: bool


class MappedFiles:
    """Files mapped into memory for reading; of many the last used ones stay so."""

    def __init__(self) -> None:
        self._maps: OrderedDict[Path, tuple[mmap.mmap, NDArray[np.uint8]]] = OrderedDict()

    def map(self, path: Path, size: int) -> NDArray[np.uint8]:
        """The first ``size`` bytes of a file, at least 1.

        Raises:
            FileNotFoundError: it is not there.
            DamagedRowsError: it is shorter: the system kills who reads beyond the end.
        """
        known = self._maps.pop(path, None)
        if known is None or len(known[1]) < size:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < size:
                    raise DamagedRowsError(f"{path} was cut")
                opened = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
            known = (opened, np.frombuffer(opened, np.uint8))
        elif known[0].size() < size:
            raise DamagedRowsError(f"{path} was cut")
        self._maps[path] = known
        if len(self._maps) > MAPPED_FILES:
            self._maps.popitem(last=False)
        return known[1]

    def give_back(self, path: Path) -> None:
        """Count what was read of a file as memory of this process no longer.

        It stays in the system's cache, and is there when it is read again.
        """
        known = self._maps.get(path)
        if known is not None and hasattr(mmap, "MADV_DONTNEED"):
            known[0].madvise(mmap.MADV_DONTNEED)


# Segments


@dataclass(frozen=True)
class _Head:
    live: bool
    count: int
    span: int
    rows_sum: int
    keys_sum: bytes

    def packed(self) -> bytes:
        magic = _BLOCK if self.live else _ASIDE
        head = _BLOCK_HEAD.pack(magic, self.count, self.span, self.rows_sum, self.keys_sum)
        return head + _digest(head)

    @staticmethod
    def unpacked(data: bytes) -> _Head | None:
        """None where the bytes are no header."""
        if len(data) < _HEAD_BYTES or _digest(data[: _BLOCK_HEAD.size]) != data[-_DIGEST_BYTES:]:
            return None
        magic, count, span, rows_sum, keys_sum = _BLOCK_HEAD.unpack(data[: _BLOCK_HEAD.size])
        if magic not in (_BLOCK, _ASIDE):
            return None
        return _Head(magic == _BLOCK, count, span, rows_sum, keys_sum)


@dataclass(frozen=True)
class ReadSegment:
    """What a segment holds.

    Attributes:
        rows: its sound blocks, as far as keys tell.
        keys: of their rows, ``V16 [n]``.
        size: bytes of the file, with an unfinished block.
        damage: bytes that no block is read from, each ``(begin, end, what is wrong)``.
    """

    rows: RowFile
    keys: NDArray[np.void]
    size: int
    damage: Sequence[tuple[int, int, str]]


def read_segment(path: Path) -> ReadSegment:
    """Read headers and keys of a segment.

    Raises:
        FileNotFoundError: it is not there.
        DamagedRowsError: it does not begin as a segment, or not yet.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        dtype, begin = _read_file_head(path, file.read(_FILE_HEAD.size), file.read)
        rows = RowFile(path, dtype, begin)
        keys: list[NDArray[np.void]] = []
        damage: list[tuple[int, int, str]] = []
        while rows.end + _HEAD_BYTES <= size:
            file.seek(rows.end)
            head = _Head.unpacked(file.read(_HEAD_BYTES))
            if head is None:
                following = _next_block(path, rows.end + 1, size)
                damage.append((rows.end, following or size, "the header of a block"))
                if following is None:
                    break
                rows.end = following
                continue
            if rows.end + head.span > size:
                break
            if head.live:
                block = np.frombuffer(file.read(head.count * KEY.itemsize), KEY)
                if keys_digest(block) == head.keys_sum:
                    keys.append(block)
                    rows.offsets.append(rows.end + _HEAD_BYTES + block.nbytes)
                    rows.counts.append(head.count)
                    rows.sums.append(head.rows_sum)
                else:
                    damage.append((rows.end, rows.end + head.span, "the keys of a block"))
            rows.end += head.span
    return ReadSegment(rows, np.concatenate([np.empty(0, KEY), *keys]), size, damage)


def _read_file_head(path: Path, head: bytes, read: Any) -> tuple[np.dtype[Any], int]:
    if len(head) < _FILE_HEAD.size or not head.startswith(_FILE):
        raise DamagedRowsError(f"{path} does not begin as a file of rows")
    _, length, checksum = _FILE_HEAD.unpack(head)
    described = read(length)
    if len(described) != length or zlib.crc32(described) != checksum:
        raise DamagedRowsError(f"{path} has a damaged header")
    return dtype_of_json(json.loads(described)["dtype"]), _FILE_HEAD.size + length


def _next_block(path: Path, begin: int, size: int) -> int | None:
    """The byte of the next header of a block, where the one before it is damaged."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
        while (begin := min(_found(data, magic, begin) for magic in (_BLOCK, _ASIDE))) < size:
            head = _Head.unpacked(data[begin : begin + _HEAD_BYTES])
            if head is not None and begin + head.span <= size:
                return begin
            begin += 1
    return None


def _found(data: mmap.mmap, wanted: bytes, begin: int) -> int:
    at = data.find(wanted, begin)
    return len(data) if at < 0 else at


def set_block_aside(path: Path, begin: int, end: int) -> None:
    """Let the header of a block say that nothing is to be read up to ``end``.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_size < end:
            return  # it was cut meanwhile, and is found to be shorter
        os.pwrite(file.fileno(), _Head(False, 0, end - begin, 0, b"").packed(), begin)


def set_rows_aside(rows: RowFile, block: int) -> None:
    """Mark a block whose rows are damaged.

    Raises:
        OSError: the file cannot be written.
    """
    if rows.adopted is not None:
        _set_adopted_aside(rows.path, block)
        return
    count = rows.counts[block]
    begin = rows.offsets[block] - count * KEY.itemsize - _HEAD_BYTES
    end = rows.offsets[block] + count * rows.dtype.itemsize
    set_block_aside(rows.path, begin, end)


def cut_unfinished(path: Path, end: int, size: int) -> bool:
    """Cut off what a killed process did not finish; False where the file is still written.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("r+b", buffering=0) as file:
        if not _is_mine(file.fileno()) or os.fstat(file.fileno()).st_size != size:
            return False
        os.ftruncate(file.fileno(), end)
        return True


def remove_unless_written(path: Path, size: int | None = None) -> bool:
    """Remove a segment that no process writes and, if given, is of this size.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        with path.open("r+b") as file:  # NFS locks what is open for writing
            if not _is_mine(file.fileno()) or size not in (None, os.fstat(file.fileno()).st_size):
                return False
            path.unlink()
            return True
    except FileNotFoundError:
        return False


def _is_mine(descriptor: int) -> bool:
    """Lock a file for this process until it is closed, if no other has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class SegmentWriter:
    """The one writer of a segment: it holds a lock on it until it is closed."""

    def __init__(self, rows: RowFile, descriptor: int) -> None:
        self.rows = rows
        self._descriptor = descriptor

    @classmethod
    def create(cls, folder: Path, dtype: np.dtype[Any]) -> SegmentWriter:
        """A new segment.

        Raises:
            RowStoreError: it cannot be written.
        """
        path = folder / f"{new_name()}{SEGMENT_SUFFIX}"
        described = json.dumps({"dtype": dtype_to_json(dtype)}).encode()
        head = _FILE_HEAD.pack(_FILE, len(described), zlib.crc32(described)) + described
        with named_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                _write_all(descriptor, [head], 0)
            except BaseException:
                path.unlink()
                os.close(descriptor)
                raise
        return cls(RowFile(path, dtype, len(head)), descriptor)

    @classmethod
    def resume(cls, rows: RowFile) -> SegmentWriter | None:
        """Go on with a segment; None where another process writes it, or has since it was read.

        Raises:
            RowStoreError: it cannot be written.
        """
        with named_errors(rows.path):
            try:
                descriptor = os.open(rows.path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            with contextlib.suppress(FileNotFoundError):  # removed before it was locked
                if _is_mine(descriptor):
                    status, there = os.fstat(descriptor), rows.path.stat()
                    if (status.st_ino, status.st_size) == (there.st_ino, rows.end):
                        return cls(rows, descriptor)
            os.close(descriptor)
        return None

    def write(self, keys: NDArray[np.void], rows: NDArray[Any]) -> int:
        """Write a block; when this returns it outlives the process.

        Args:
            keys: ``V16 [n]``, at least one.
            rows: ``[n]`` of the segment's dtype, contiguous.

        Returns:
            The byte of the first row.

        Raises:
            RowStoreError: it cannot be written; the segment is as before.
        """
        data = rows.view(np.uint8).data
        checksum = zlib.crc32(data)
        span = _HEAD_BYTES + keys.nbytes + rows.nbytes
        head = _Head(True, len(keys), span, checksum, keys_digest(keys))
        with named_errors(self.rows.path):
            parts: list[bytes | memoryview] = [head.packed(), keys.view(np.uint8).data, data]
            try:
                _write_all(self._descriptor, parts, self.rows.end)
            except OSError:
                os.ftruncate(self._descriptor, self.rows.end)
                raise
        first = self.rows.end + _HEAD_BYTES + keys.nbytes
        self.rows.offsets.append(first)
        self.rows.counts.append(len(keys))
        self.rows.sums.append(checksum)
        self.rows.end += span
        return first

    def close(self) -> None:
        """Let go of the segment."""
        os.close(self._descriptor)


def _write_all(descriptor: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
    for part in parts:
        rest = memoryview(part)
        while len(rest):
            written = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[written:], offset + written


# Adopted files


def adopt_file(
    path: Path, keys: NDArray[np.void], dtype: np.dtype[Any], offset: int, output: Path
) -> RowFile:
    """Write the sidecar of a file in the store's folder whose rows are of these keys.

    Args:
        path: ``*.adopted``, from ``offset`` on at least ``len(keys)`` rows.
        keys: ``V16 [n]``, at least one.
        dtype: of a row.
        offset: byte of the first row.
        output: what the file is to others, for :func:`share_again`.

    Raises:
        OSError: the sidecar cannot be written.
    """
    maps = MappedFiles()
    size = path.stat().st_size
    data = maps.map(path, size)
    rows = RowFile(path, dtype, size)
    width = dtype.itemsize
    step = max(BLOCK_BYTES // width, 1)
    for first in range(0, len(keys), step):
        count = min(step, len(keys) - first)
        start = offset + first * width
        rows.offsets.append(start)
        rows.counts.append(count)
        rows.sums.append(zlib.crc32(data[start : start + count * width].data))
    rows.adopted = Adoption(offset, len(keys), keys_digest(keys), _edges(data, rows), True)
    described = {
        "dtype": dtype_to_json(dtype),
        "offset": offset,
        "rows": len(keys),
        "step": step,
        "size": size,
        "sums": rows.sums,
        "edges": rows.adopted.edges,
        "aside": [],
        "outputs": str(output.absolute().parent),
    }
    _write_sidecar(path, described, keys)
    return rows


def _edges(data: NDArray[np.uint8], rows: RowFile) -> int:
    end = rows.offsets[-1] + rows.counts[-1] * rows.dtype.itemsize
    return zlib.crc32(data[end:].data, zlib.crc32(data[: rows.offsets[0]].data))


def read_adopted(path: Path) -> tuple[RowFile, NDArray[np.void]]:
    """An adopted file and the keys of its sound rows.

    Raises:
        FileNotFoundError: it, or its sidecar, is not there.
        DamagedRowsError: its sidecar is damaged, or the file was cut.
    """
    described, keys = _read_sidecar(path)
    size = path.stat().st_size
    if size != described["size"]:
        raise DamagedRowsError(f"{path} has {size} bytes instead of {described['size']}")
    dtype, step = dtype_of_json(described["dtype"]), described["step"]
    rows = RowFile(path, dtype, size)
    order = keys_digest(keys)
    whole = not described["aside"]
    rows.adopted = Adoption(described["offset"], len(keys), order, described["edges"], whole)
    parts = [np.empty(0, KEY)]
    for block, checksum in enumerate(described["sums"]):
        if block in described["aside"]:
            continue
        part = keys[block * step : (block + 1) * step]
        rows.offsets.append(described["offset"] + block * step * dtype.itemsize)
        rows.counts.append(len(part))
        rows.sums.append(checksum)
        parts.append(part)
    return rows, np.concatenate(parts)


def is_whole(rows: RowFile, maps: MappedFiles) -> bool:
    """Whether every byte of an adopted file is as it was when it was adopted."""
    if rows.adopted is None or not rows.adopted.whole:
        return False
    for block in range(len(rows.offsets)):
        sound = rows.is_sound(block, maps)
        maps.give_back(rows.path)
        if not sound:
            return False
    return _edges(maps.map(rows.path, rows.end), rows) == rows.adopted.edges


def share_again(path: Path) -> bool:
    """Link an adopted file to its output again, where that was copied and still has the same bytes.

    DVC puts a copy from its cache in the place of an output that it has taken in, where the file
    system cannot clone.

    Raises:
        OSError: the files cannot be read or linked.
        DamagedRowsError: the sidecar is damaged, or a file was cut.
    """
    if path.stat().st_nlink > 1:
        return False
    rows, _ = read_adopted(path)
    described, _ = _read_sidecar(path)
    folder = Path(described.get("outputs", path.parent / "outputs"))
    for output in folder.iterdir():  # its name may be another's now
        # One that has another link is shared already, by other rows.
        status = output.stat()
        if status.st_size != rows.end or status.st_nlink > 1 or not output.is_file():
            continue
        link = path.with_name(f".{new_name()}")
        link.hardlink_to(output.resolve())  # first: where it cannot be, nothing need be read
        try:
            if is_whole(replace(rows, path=link), MappedFiles()):
                link.replace(path)
                return True
        finally:
            link.unlink(missing_ok=True)
    return False


def sidecar_of(path: Path) -> Path:
    """The sidecar of an adopted file."""
    return path.with_suffix(SIDECAR_SUFFIX)


def remove_adopted(path: Path) -> None:
    """Remove an adopted file from the store; elsewhere it stays."""
    sidecar_of(path).unlink(missing_ok=True)  # first: what lacks it is no more than a leftover
    path.unlink(missing_ok=True)


def _write_sidecar(path: Path, described: dict[str, Any], keys: NDArray[np.void]) -> None:
    text = json.dumps(described).encode()
    data = _FILE_HEAD.pack(_SIDECAR, len(text), zlib.crc32(text)) + text + keys.tobytes()
    with atomic_file(sidecar_of(path)) as temporary:
        temporary.write_bytes(data + _digest(data))


def _read_sidecar(path: Path) -> tuple[dict[str, Any], NDArray[np.void]]:
    sidecar = sidecar_of(path)
    data = sidecar.read_bytes()
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not data.startswith(_SIDECAR) or _digest(body) != digest:
        raise DamagedRowsError(f"{sidecar} is damaged")
    _, length, _ = _FILE_HEAD.unpack(body[: _FILE_HEAD.size])
    begin = _FILE_HEAD.size + length
    described: dict[str, Any] = json.loads(body[_FILE_HEAD.size : begin])
    return described, np.frombuffer(body, KEY, described["rows"], begin)


def _set_adopted_aside(path: Path, block: int) -> None:
    """``block`` counts those that are not aside yet."""
    described, keys = _read_sidecar(path)
    sound = (number for number in range(len(described["sums"])) if number not in described["aside"])
    described["aside"].append(list(sound)[block])
    _write_sidecar(path, described, keys)


def row_files(folder: Path) -> Iterator[Path]:
    """Segments and adopted files of a computation, in the order in which they were begun."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (SEGMENT_SUFFIX, ADOPTED_SUFFIX):
            yield path
