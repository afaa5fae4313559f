"""The image files of a folder: which names are taken for images, and what is passed over."""

from __future__ import annotations

import logging
import os
from bisect import insort
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, NoReturn

from PIL import Image

from compositional_prompts.catalog.images import FORMATS
from compositional_prompts.files.sorted_names import SortedNames

# Pillow's reader of JPEG opens MPO, a JPEG with more pictures behind the first.
_NAMED_FORMATS: Final = {*FORMATS, "MPO"}
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
            without one, ``other`` for what is no plain word), sorted.
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

    Hidden files and folders are skipped. Links are followed, and every folder is read once
    however many links lead to it, so loops end.

    Raises:
        OSError: a folder cannot be read.
    """
    visited: set[int] = set()
    for parent, folders, files in os.walk(directory, followlinks=True, onerror=_raise):
        status = Path(parent).stat()
        folder = status.st_dev << 64 | status.st_ino  # half the memory of a tuple
        if folder in visited:
            folders.clear()
            continue
        visited.add(folder)
        # In place, which os.walk takes as where to go next and in which order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(parent).relative_to(directory).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        for name in files:
            if not name.startswith("."):
                yield prefix + name


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
        for path in list_files(directory):
            if not is_image_name(path):
                numbers[_extension(path)] += 1
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


def _raise(error: OSError) -> NoReturn:
    raise error
