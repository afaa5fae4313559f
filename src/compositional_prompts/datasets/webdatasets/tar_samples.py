"""The samples of tar files, read where they lie, one at a time.

The layout of the library ``webdataset`` and of img2dataset: members that follow one another and
whose names are alike up to the first dot after the last slash, the **key**, are one sample; what
stands behind that dot, in lower case, tells them apart. The library itself takes a damaged header
for the end of a tar, reads members of any size, and gives a sample in two where its members do not
follow one another; none of that is told.
"""

from __future__ import annotations

import logging
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from compositional_prompts.catalog.image_files import image_extensions
from compositional_prompts.datasets.webdatasets.shard_paths import Shard, ShardError
from compositional_prompts.files.archives import (
    ArchiveError,
    TarHeaders,
    guarded,
    inflated,
    plain_path,
)
from compositional_prompts.files.distinct import Distinct

JSON: Final = "json"
CLASS: Final = "cls"
TEXTS: Final = ("txt", "text")

IMAGE_BYTES: Final = 2**28
TEXT_BYTES: Final = 2**22
SAMPLE_BYTES: Final = 2**29
SAMPLE_MEMBERS: Final = 1000

# As webdataset's base_plus_ext.
_NAME: Final = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)")
# Of the shard, not of a sample, as in webdataset.
_META: Final = re.compile(r"__[^/]*__($|/)")
_PACKED: Final = {
    b"PK": "a zip",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
}
_LONGEST_EXTENSION: Final = 20
_COPY_BYTES: Final = 2**20

logger = logging.getLogger(__name__)


@dataclass
class Sample:
    """What follows one another under one key.

    Attributes:
        shard: the tar that it is in.
        key: its name there, UTF-8 if there is no ``problem``.
        images: contents by what stands behind the key (``jpg``).
        texts: contents of :data:`JSON`, :data:`CLASS` and those that end in one of :data:`TEXTS`.
        names: of the members read, by the same.
        problem: why it cannot be used, and in what, or None.
    """

    shard: Shard
    key: str
    images: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    problem: tuple[str, str] | None = None

    def fail(self, reason: str, what: str) -> None:
        """Take note of a problem, the first of which counts."""
        self.problem = self.problem or (reason, what)


def is_image(extension: str) -> bool:
    """Whether a member is taken for an image, by what stands behind its key."""
    return f".{extension}".endswith(image_extensions())


def is_text(extension: str) -> bool:
    """Whether a member is a value of its own, by what stands behind its key."""
    return extension == CLASS or extension.rpartition(".")[2] in TEXTS


def iterate_samples(
    shard: Shard, temporary: Path, wanted: Callable[[str], bool], passed_over: Counter[str]
) -> Iterator[Sample]:
    """The samples of a tar in its order; memory holds one of them, and 8 bytes a key.

    Args:
        shard: a ``.tar``, or a ``.tar.gz``, which is inflated into an unnamed temporary file.
        temporary: a folder on whose disk that is.
        wanted: which images are read, by what stands behind the key.
        passed_over: counts the members that are not read, by extension.

    Raises:
        ShardError: the members of a sample do not follow one another, or one is there twice.
        ArchiveError: the file is no tar, damaged, cut off, joined with another one, or names a
            member that is absolute or has ``..``.
    """
    keys = Distinct()
    with _opened(shard.path, temporary) as file:
        sample: Sample | None = None
        for header in _headers(shard.path, file):
            found = _parted(shard.path, header.name)
            if found is None or header.isdir():
                if not header.isdir():
                    passed_over["none"] += 1
                continue
            key, extension = found
            if sample is None or key != sample.key:
                if sample is not None:
                    yield sample
                sample = Sample(shard, key)
                if not keys.add(key.encode("utf-8", "surrogateescape")):
                    raise ShardError(
                        f"{shard.path}: members of the sample {key!r} do not follow one another, "
                        "or two samples have its name: sort the members by name."
                    )
            if not (is_text(extension) or extension == JSON or _is_wanted(extension, wanted)):
                passed_over[_counted(extension)] += 1
                continue
            _add(sample, extension, header, file)
        if sample is not None:
            yield sample


def _is_wanted(extension: str, wanted: Callable[[str], bool]) -> bool:
    return is_image(extension) and wanted(extension)


def _opened(path: Path, temporary: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise ArchiveError(f"{path}: an empty file, and no tar: fetch or write it again.")
    if start.startswith(b"\x1f\x8b"):
        return guarded(path, lambda: inflated(path, temporary))
    for magic, what in _PACKED.items():
        if start.startswith(magic):
            raise ArchiveError(f"{path}: {what}; .tar and .tar.gz are read.")
    return path.open("rb")


def _headers(path: Path, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    start = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    if len(start) == tarfile.BLOCKSIZE and not any(start):  # tarfile takes it for no tar
        logger.warning("%s: a tar without members", path)
        _check_end(path, file, 0)
        return
    headers = guarded(path, lambda: TarHeaders(path, file))
    iterator = iter(headers)
    last = ""
    while True:
        try:
            header = guarded(path, lambda: next(iterator, None))
        except ArchiveError as error:
            where = f" It was read up to the member {last!r}." if last else ""
            raise ArchiveError(f"{error}{where}") from error
        if header is None:
            break
        last = header.name
        yield header
    _check_end(path, file, headers.end)


def _check_end(path: Path, file: IO[bytes], end: int) -> None:
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        logger.warning(
            "%s: lacks the mark at which a tar ends: it may have been cut off between two samples",
            path,
        )
    while block:
        if any(block):
            raise ArchiveError(
                f"{path}: more follows after its end, as where tars were joined by `cat`; name the "
                "single ones, or join them by `tar --concatenate`."
            )
        block = file.read(_COPY_BYTES)


def _parted(path: Path, name: str) -> tuple[str, str] | None:
    """Key and what stands behind it; None for a member of no sample."""
    plain = plain_path(path, name)
    match = _NAME.fullmatch(plain)
    if match is None or _META.match(plain):
        return None
    return match[1], match[2].lower()


def _counted(extension: str) -> str:
    plain = extension.replace(".", "").isalnum() and extension.isascii()
    return extension if plain and len(extension) <= _LONGEST_EXTENSION else "other"


def _add(sample: Sample, extension: str, header: tarfile.TarInfo, file: IO[bytes]) -> None:
    if extension in sample.names:
        raise ShardError(
            f"{sample.shard.path}: the sample {sample.key!r} has two members {extension!r}."
        )
    sample.names[extension] = header.name
    if not _is_utf8(header.name):
        sample.fail("name_not_utf8", "its name is not UTF-8")
    elif not header.isreg():
        sample.fail("link", f"its member {extension!r} is a link or a device")
    else:
        held = sample.images if is_image(extension) else sample.texts
        read = sum(map(len, (*sample.images.values(), *sample.texts.values())))
        limit = min(IMAGE_BYTES if is_image(extension) else TEXT_BYTES, SAMPLE_BYTES - read)
        if header.size > limit or len(sample.names) > SAMPLE_MEMBERS:
            sample.fail("too_large", f"its member {extension!r} has {header.size} bytes")
        else:
            held[extension] = _content(sample, header, file)


def _content(sample: Sample, header: tarfile.TarInfo, file: IO[bytes]) -> bytes:
    file.seek(header.offset_data)
    content = file.read(header.size)
    if len(content) < header.size:
        raise ArchiveError(
            f"{sample.shard.path}: cut off within the sample {sample.key!r} ({header.name}): fetch "
            "or write the tar again."
        )
    return content


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
