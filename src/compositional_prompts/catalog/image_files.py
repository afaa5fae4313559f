"""The image files of a folder: which names are taken for images, and what is passed over."""

from __future__ import annotations

import logging
import os
from bisect import insort
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from PIL import Image

from compositional_prompts.catalog.images import FORMATS
from compositional_prompts.files.sorted_names import SortedNames

# Pillow's reader of JPEG opens MPO, a JPEG with more pictures behind the first.
_NAMED_FORMATS: Final = {*FORMATS, "MPO"}
SPECIAL: Final = "no_file"
"""What is passed over and no regular file, whatever its name: a pipe, a socket, a device."""

# Of those passed over; enough to see what they are.
_NAMED_IN_LOG: Final = 5
_LONGEST_EXTENSION: Final = 10

logger = logging.getLogger(__name__)


class FolderError(ValueError):
    """A folder of images, or its CSV of labels, is not what is expected."""


class FolderImages(NamedTuple):
    """What a folder holds.

    Attributes:
        paths: its images, relative with ``/``, each once.
        passed_over: how many other files there are, by extension (``jp2``, ``txt``; ``none``
            without one, ``other`` for what is no plain word, :data:`SPECIAL`), sorted.
    """

    paths: SortedNames
    passed_over: dict[str, int]


@cache
def image_extensions() -> tuple[str, ...]:
    """What names of images end in, in lower case: as Pillow names the formats that are read."""
    registered = Image.registered_extensions()
    return tuple(sorted(name for name, kind in registered.items() if kind in _NAMED_FORMATS))


def is_image_name(path: str) -> bool:
    """Whether a file is taken for an image, by its name.

    In any case, and with the query of the address that it was fetched from: ``shoe.jpg?v=123``.
    """
    name = PurePosixPath(path).name.lower()
    return any(one.endswith(image_extensions()) for one in (name, name.partition("?")[0]))


def list_files(directory: Path) -> Iterator[str]:
    """The files under ``directory``: relative paths with ``/``.

    Hidden files and folders are skipped, and what is no regular file, which might never end to be
    read (a pipe, a socket, a device). Links are followed, and every folder is read once
    however many links lead to it, so loops end. A link that leads nowhere counts as a file.

    Raises:
        OSError: a folder cannot be read.
    """
    return (path for path, regular in _list_entries(directory) if regular)


def _list_entries(directory: Path) -> Iterator[tuple[str, bool]]:
    """All but folders, as :func:`list_files`, and whether it is a file that can be read."""
    visited: set[int] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        parent = directory / prefix
        status = parent.stat()
        folder = status.st_dev << 64 | status.st_ino  # half the memory of a tuple
        if folder in visited:
            continue
        visited.add(folder)
        folders = []
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _leads_to_folder(entry):
                    folders.append(f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name, _is_regular(entry)
        waiting += sorted(folders, reverse=True)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look
        return False


def _is_regular(entry: os.DirEntry[str]) -> bool:
    """Whether it is, or is a link that leads nowhere: who reads it is told so."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True


def find_images(directory: Path) -> FolderImages:
    """The image files under ``directory``, found as by :func:`list_files`.

    Other files are counted, and a few of them named in the log.

    Raises:
        FolderError: the directory holds no image, or an image's name is not UTF-8.
        OSError: a folder cannot be read.
    """
    numbers: Counter[str] = Counter()
    others: list[str] = []  # the first of those passed over, one more than are named

    def images() -> Iterator[str]:
        for path, regular in _list_entries(directory):
            if not regular or not is_image_name(path):
                numbers[_extension(path) if regular else SPECIAL] += 1
                insort(others, path)
                del others[_NAMED_IN_LOG + 1 :]
            elif not _is_utf8(path):
                raise FolderError(f"{directory}: the file name {path!r} is not UTF-8: rename it.")
            else:
                yield path

    found = SortedNames(images())
    passed_over = dict(sorted(numbers.items()))
    counts = ", ".join(f"{count} {extension}" for extension, count in passed_over.items())
    if not len(found):
        raise FolderError(
            f"empty data set: {directory} holds no image ({', '.join(image_extensions())})"
            f"{f'; other files: {counts}' if others else ''}."
        )
    if others:
        logger.warning(
            "%s: passed over, as not named like images that are read: %s (%s)",
            directory,
            counts,
            _few(others),
        )
    return FolderImages(found, passed_over)


def _extension(path: str) -> str:
    name = PurePosixPath(path).name.partition("?")[0]
    extension = PurePosixPath(name).suffix[1:].lower()
    if not extension:
        return "none"
    plain = extension.isascii() and extension.isalnum() and len(extension) <= _LONGEST_EXTENSION
    return extension if plain else "other"


def _few(paths: Sequence[str]) -> str:
    named = ", ".join(repr(path) for path in paths[:_NAMED_IN_LOG])
    return f"{named}, ..." if len(paths) > _NAMED_IN_LOG else named


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
