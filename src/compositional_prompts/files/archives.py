"""Members of a stranger's zip or tar archive, read in place: nothing is ever unpacked.

A catalog wants the bytes of a file, not the file. So no path that an archive names is written to,
links and devices in it lead nowhere, and there are no fifty thousand small files to make and to
remove. A zip is read where it lies; a compressed tar, which can only be read from its beginning, is
inflated once into one unnamed temporary file, which the system removes even if the process is
killed.
"""

from __future__ import annotations

import errno
import gzip
import io
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final, Protocol, TypeVar

TOTAL_BYTES: Final = 64 * 2**30
"""What an archive may unpack to, in bytes: more than any data set here, less than a bomb."""

MEMBERS: Final = 5_000_000
"""How many members an archive may have."""

_COPY_BYTES: Final = 2**20
# What a header of a tar may take: the extended ones are read whole.
_HEADER_BYTES: Final = 2**20
_ENCRYPTED: Final = 0x1
_TAR_MAGIC: Final = (257, b"ustar")

Value = TypeVar("Value")


class ArchiveError(ValueError):
    """The file is no archive, or not one that can be trusted."""


class Archive(Protocol):
    """An open archive.

    Attributes:
        names: the paths of its regular files: relative, with ``/``, each once.
    """

    @property
    def names(self) -> Collection[str]: ...

    def read(self, name: str, limit: int) -> bytes:
        """The content of one of ``names``.

        Raises:
            ArchiveError: it is longer than ``limit`` bytes, or damaged.
        """
        ...

    def close(self) -> None:
        """Close the files behind it."""
        ...


def open_archive(path: Path, temporary: Path) -> Archive:
    """Open a ``.zip``, ``.tar`` or ``.tar.gz``, told apart by content.

    Args:
        path: the archive.
        temporary: a folder on whose disk a compressed tar is inflated, without a name.

    Raises:
        FileNotFoundError: there is no such file.
        ArchiveError: it is none of these, damaged, encrypted, names a path that is absolute or has
            ``..``, names one twice, or unpacks to more than :data:`TOTAL_BYTES` or
            :data:`MEMBERS`.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"\x1f\x8b"):
        return guarded(path, lambda: _TarArchive(path, inflated(path, temporary)))
    offset, magic = _TAR_MAGIC
    if start[offset:].startswith(magic):
        return guarded(path, lambda: _TarArchive(path, path.open("rb")))
    if start.startswith(b"PK"):
        return guarded(path, lambda: _ZipArchive(path))
    raise ArchiveError(
        f"{path}: neither zip nor tar.gz; it begins with {start[:40]!r}. A host that no longer has "
        "the file may have sent a page instead: look into it and remove it."
    )


def guarded(path: Path, work: Callable[[], Value]) -> Value:
    """What ``work`` gives; whatever the parsers run into in damaged bytes is an ArchiveError."""
    try:
        return work()
    except (ArchiveError, OSError) as error:
        # Bad gzip data is an OSError too, without the number that those of the disk have; and a
        # damaged offset is sought, which the system calls an invalid argument.
        if isinstance(error, OSError) and error.errno in (None, errno.EINVAL):
            raise _damaged(path, error) from error
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ArchiveError:
    return ArchiveError(
        f"{path}: damaged or cut off: {type(error).__name__}: {error}. If it was downloaded, "
        "remove it to fetch it again."
    )


def _by_path(path: Path, members: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Members by their path, without a leading ``./``."""
    found: dict[str, Value] = {}
    for name, member in members:
        plain = plain_path(path, name)
        if plain in found:
            raise ArchiveError(f"{path}: the member {name!r} is there twice.")
        found[plain] = member
    return found


def plain_path(path: Path, name: str) -> str:
    """A member's name without a leading ``./``.

    Args:
        path: the archive, for messages.
        name: of the member.

    Raises:
        ArchiveError: it leads out of the folder that the archive would be unpacked to.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or "\\" in name:
        raise ArchiveError(
            f"{path}: the member {name!r} is not a plain relative path: archives of data sets "
            "have none such; do not use it."
        )
    return str(pure)


def _check_total(path: Path, members: int, size: int) -> None:
    if members > MEMBERS:
        raise ArchiveError(f"{path}: more than {MEMBERS} members.")
    if size > TOTAL_BYTES:
        raise ArchiveError(f"{path}: unpacks to more than {TOTAL_BYTES} bytes.")


def _too_long(path: Path, name: str, limit: int) -> ArchiveError:
    return ArchiveError(f"{path}: the member {name!r} is longer than {limit} bytes.")


class _ZipArchive:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip = zipfile.ZipFile(path)
        try:
            members = self._zip.infolist()
            _check_total(path, len(members), sum(member.file_size for member in members))
            for member in members:
                if member.flag_bits & _ENCRYPTED:
                    raise ArchiveError(f"{path}: the member {member.filename!r} is encrypted.")
            self._members = _by_path(
                path, ((member.filename, member) for member in members if not _is_special(member))
            )
        except BaseException:
            self._zip.close()
            raise

    @property
    def names(self) -> Collection[str]:
        return self._members.keys()

    def read(self, name: str, limit: int) -> bytes:
        def work() -> bytes:
            with self._zip.open(self._members[name]) as file:
                content = file.read(limit + 1)
            if len(content) > limit:
                raise _too_long(self._path, name, limit)
            return content

        return guarded(self._path, work)

    def close(self) -> None:
        self._zip.close()


def _is_special(member: zipfile.ZipInfo) -> bool:
    # The upper half holds the mode where the archive was made on a Unix, else 0.
    kind = stat.S_IFMT(member.external_attr >> 16)
    return member.is_dir() or kind not in (0, stat.S_IFREG)


class _TarArchive:
    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        try:
            self._places = _by_path(path, _tar_members(path, file))
        except BaseException:
            file.close()
            raise

    @property
    def names(self) -> Collection[str]:
        return self._places.keys()

    def read(self, name: str, limit: int) -> bytes:
        offset, size = self._places[name]
        if size > limit:
            raise _too_long(self._path, name, limit)
        self._file.seek(offset)
        content = self._file.read(size)
        if len(content) < size:
            raise ArchiveError(f"{self._path}: cut off within the member {name!r}.")
        return content

    def close(self) -> None:
        self._file.close()


def _tar_members(path: Path, file: IO[bytes]) -> Iterator[tuple[str, tuple[int, int]]]:
    """The regular files, and where they lie: offset and size in bytes."""
    for member in TarHeaders(path, file):
        if member.isreg():
            yield member.name, (member.offset_data, member.size)


class TarHeaders:
    """The headers of a tar, one after the other, as far as they can be trusted.

    What ``file`` is read for between two of them does not matter.

    Attributes:
        end: where the header after the last one would be, in bytes; right once all were given.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        """Begin with the first one.

        Args:
            path: its name, for messages.
            file: it, not compressed; stays open.
        """
        self._path = path
        self._headers = tarfile.open(fileobj=_HeaderReader(file, path), mode="r:")  # noqa: SIM115

    @property
    def end(self) -> int:
        return self._headers.offset

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """
        Raises:
            ArchiveError: one is damaged or sparse, or there are too many.
            tarfile.TarError: the tar ends within a member. (:func:`guarded`)
        """
        headers, path = self._headers, self._path
        total = members = 0
        while (member := headers.next()) is not None:
            headers.members = []  # type: ignore[attr-defined]  # it would keep every header
            members += 1
            total += max(0, member.size)
            _check_total(path, members, total)
            if member.size < 0 or member.issparse():
                raise ArchiveError(f"{path}: the member {member.name!r} is sparse or has no size.")
            yield member
        # tarfile takes a damaged header for the end.
        headers.fileobj.seek(headers.offset)
        if any(headers.fileobj.read(tarfile.BLOCKSIZE)):
            raise ArchiveError(f"{path}: damaged: no header at byte {headers.offset}.")


class _HeaderReader(io.RawIOBase):
    """A tar file as tarfile reads its headers: never more than a header's worth at once.

    An extended header says its own length, and would be read whole whatever it is.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise ArchiveError(f"{self._path}: a header of {size} bytes.")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def inflated(path: Path, temporary: Path) -> IO[bytes]:
    """The tar within a ``.tar.gz``, as an unnamed file on the disk of ``temporary``."""
    temporary.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=temporary)  # noqa: SIM115
    try:
        with gzip.open(path) as compressed:
            while block := compressed.read(_COPY_BYTES):
                _check_total(path, 0, file.tell() + len(block))
                file.write(block)
        file.seek(0)
    except OSError as error:
        file.close()
        if error.errno is None:
            raise
        free = shutil.disk_usage(temporary).free
        raise OSError(
            error.errno, f"{path}: cannot be inflated in {temporary} ({free} bytes free): {error}"
        ) from error
    except BaseException:
        file.close()
        raise
    return file
