"""Checksums of photos beside them: ``SHA256SUMS``, as ``sha256sum`` writes and checks it.

A bit that flips in a JPEG, WebP, AVIF or TIFF often decodes to other pixels without an error; only
a digest from before tells.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from compositional_prompts.catalog.image_files import FolderError, find_images
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.files.sorted_names import SortedNames

CHECKSUMS: Final = "SHA256SUMS"
"""The file, at the root of the folder."""

ALTERED: Final = "altered"
"""Why a photo is set aside that is not what its checksum says."""

_SHOWN: Final = 5
# A backslash before the digest: newlines and backslashes of the name are written as escapes.
_LINE: Final = re.compile(r"(\\?)([0-9a-f]{64}) [ *](.+)")
_ESCAPES: Final = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}

log = logging.getLogger(__name__)


def read_checksums(directory: Path) -> dict[str, bytes] | None:
    """SHA-256 of the files of a folder, by their paths below it; None where it has no such file.

    Memory holds some 200 bytes a file.

    Raises:
        FolderError: a line is none of ``sha256sum``, or two lines are of one file.
    """
    source = directory / CHECKSUMS
    if not source.is_file():
        return None
    sums: dict[str, bytes] = {}
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            found = _LINE.fullmatch(text)
            if found is None:
                raise FolderError(
                    f"{source}, line {number}: expected 64 hexadecimal digits, two spaces and a "
                    f"path, as sha256sum writes it, found {text[:80]!r}."
                )
            escaped, digest, name = found.groups()
            if escaped:
                name = re.sub(r"\\[\\nr]", lambda match: _ESCAPES[match[0]], name)
            path = PurePosixPath(name).as_posix()
            if sums.setdefault(path, bytes.fromhex(digest)) != bytes.fromhex(digest):
                raise FolderError(f"{source}, line {number}: {path!r} has another sum before.")
    return sums


def is_altered(sums: Mapping[str, bytes] | None, path: str, content: bytes) -> bool:
    """Whether a file has a checksum, and is something else."""
    expected = None if sums is None else sums.get(path)
    return expected is not None and hashlib.sha256(content).digest() != expected


def log_checksums(sums: Mapping[str, bytes] | None, paths: SortedNames, directory: Path) -> None:
    """Say how many images have a checksum, and what has one and is not there."""
    if sums is None:
        return
    listed = sum(path in sums for path in paths)
    log.info("%d of %d images are checked by %s", listed, len(paths), directory / CHECKSUMS)
    if listed < len(paths):
        log.warning(
            "warning: %d images have no checksum in %s, and are taken as they are: "
            "`compositional-prompts checksums %s` adds them",
            *(len(paths) - listed, directory / CHECKSUMS, directory),
        )
    gone = [path for path in sums if paths.find(path) is None]
    if gone:
        log.warning(
            "warning: %d files that %s lists are no images there: %s",
            *(len(gone), directory / CHECKSUMS, _listed(gone)),
        )


def write_checksums(directory: Path) -> str:
    """Write the checksums of the images of a folder; those that are there are checked, and stay.

    Returns:
        What was done, a sentence.

    Raises:
        FolderError: there is no such folder, it has no image, or an image is not what its checksum
            says: then nothing is written.
        OSError: an image cannot be read.
    """
    if not directory.is_dir():
        raise FolderError(f"there is no directory {directory}.")
    before = read_checksums(directory) or {}
    paths = find_images(directory).paths
    added, altered = 0, []
    with atomic_file(directory / CHECKSUMS) as temporary, temporary.open("wb") as file:
        for path in paths:
            with (directory / path).open("rb") as photo:
                digest = hashlib.file_digest(photo, "sha256")
            if path not in before:
                added += 1
            elif before[path] != digest.digest():
                altered.append(path)
            file.write(_line(path, digest.hexdigest()))
        if altered:
            raise FolderError(
                f"{directory / CHECKSUMS}: {len(altered)} images are not what it says: "
                f"{_listed(altered)}. Bring them back from a copy; of those that were meant to be "
                "changed remove the lines."
            )
    kept = len(paths) - added
    gone = len(before.keys() - set(paths))
    return (
        f"{directory / CHECKSUMS}: {kept} images are as before, {added} are new"
        f"{f', {gone} are gone' if gone else ''}."
    )


def _line(path: str, digest: str) -> bytes:
    name = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if name == path else chr(92)}{digest}  {name}\n".encode("utf-8", "surrogateescape")


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(map(repr, paths[:_SHOWN])) + more
