"""Photos that are named on the command line: found, judged and decoded while a model computes."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image

from compositional_prompts.catalog.image_files import FolderError, find_images
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.compute.ordered_map import READ_AHEAD, batched, map_in_threads
from compositional_prompts.datasets.image_limits import judge_photo
from compositional_prompts.files.outputs import naming

Inputs = TypeVar("Inputs")


@dataclass(frozen=True)
class Prepared(Generic[Inputs]):
    """A photo that was read, and what it gives to the models."""

    path: Path
    inputs: Inputs


@dataclass(frozen=True)
class SetAside:
    """A photo or a folder that gives nothing.

    Attributes:
        path: which.
        reason: one of :data:`~compositional_prompts.datasets.image_limits.PHOTO_REASONS`, or
            ``unusable_folder`` for one without images, or with a name that is not UTF-8.
        detail: more of it for people, or nothing.
    """

    path: Path
    reason: str
    detail: str = ""


def find_photos(named: Iterable[Path]) -> Iterator[Path | SetAside]:
    """The photos of files and folders, in the order they are named; a folder's sorted by path.

    Folders are searched as a data set of the kind ``folder`` is, and the log says what is passed
    over there. A file that is named is taken
    whatever its name ends in. One folder's paths are in memory at a time, no image is.
    """
    for path in named:
        if not path.is_dir():
            yield path
            continue
        try:
            inside = find_images(path).paths
        except FolderError as error:
            yield SetAside(path, "unusable_folder", str(error))
        except OSError as error:
            yield SetAside(path, "inaccessible", _why(error))
        else:
            yield from (path / name for name in inside)


def read_photos(
    found: Iterable[Path | SetAside],
    prepare: Callable[[Image.Image], Inputs],
    *,
    max_pixels: int,
    batch_size: int,
    workers: int,
) -> Iterator[list[Prepared[Inputs] | SetAside]]:
    """Read, judge and prepare photos in threads, in their order.

    Args:
        found: the photos; what was set aside already is passed on in its place.
        prepare: an upright RGB image to what the models take; runs in several threads.
        max_pixels: larger images are set aside, as by ``download.max_pixels``.
        batch_size: photos a batch, the ones set aside included; the last batch may be smaller.
        workers: threads.

    Raises:
        MemoryError: too little to decode a photo, which is named.
    """

    def read(photo: Path | SetAside) -> Prepared[Inputs] | SetAside:
        if isinstance(photo, SetAside):
            return photo
        try:
            if not stat.S_ISREG(photo.stat().st_mode):
                # Reading a pipe would wait for whoever writes it.
                return SetAside(photo, "inaccessible", "no regular file")
            encoded = photo.read_bytes()
        except OSError as error:
            return SetAside(photo, "inaccessible", _why(error))
        with naming(str(photo)):
            reason = judge_photo(encoded, max_pixels).reason
            if reason is not None:
                return SetAside(photo, reason)
            return Prepared(photo, prepare(decode_rgb(encoded)))

    photos = map_in_threads(read, found, workers=workers, in_flight=READ_AHEAD * batch_size)
    return batched(photos, batch_size)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
