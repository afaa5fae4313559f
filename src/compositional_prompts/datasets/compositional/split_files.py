"""Where the files of a compositional data set lie, whatever copy or archive they come from."""

from __future__ import annotations

import html
import os
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, Protocol
from urllib.parse import unquote

from compositional_prompts.catalog.image_files import list_files
from compositional_prompts.files.archives import ArchiveError

TEXT_BYTES: Final = 2**26

IMAGE_BYTES: Final = 2**28

# Of trade marks: shops write them, or not.
_SIGNS: Final = str.maketrans({"®": "", "™": "", "©": "", "\u2019": "'"})


class CompositionalError(ValueError):
    """The data set is not there, or not in the layout."""


class Layout(NamedTuple):
    """Where the files of a data set lie, in a local folder or within the publishers' archives.

    Attributes:
        roots: folders that may hold all of it.
        images: folders under a root that may hold the photos by ``image``,
        originals: and those that may hold them by ``_image``, the path in the original data set.
    """

    roots: tuple[str, ...]
    images: tuple[str, ...]
    originals: tuple[str, ...] = ()

    def places(self, image: str, original: str | None) -> list[str]:
        """The paths that a photo may lie at, the likeliest first."""
        found = []
        for root in self.roots:
            found += [f"{root}{folder}{image}" for folder in self.images]
            if original is not None:
                found += [f"{root}{folder}{original}" for folder in self.originals]
        return found

    def described(self, image: str, original: str | None) -> str:
        """What :meth:`places` has, for a person."""
        said = f"{image} in {self._folders(self.images)}"
        if original is not None and self.originals:
            said += f"; {original} in {self._folders(self.originals)}"
        return said

    def _folders(self, folders: Sequence[str]) -> str:
        return ", ".join(f"{root}{one}" or "its root" for root in self.roots for one in folders)


class Source(Protocol):
    """A folder or an archive; see :class:`~compositional_prompts.files.archives.Archive`."""

    @property
    def names(self) -> Collection[str]: ...
    def read(self, name: str, limit: int) -> bytes: ...
    def close(self) -> None: ...


class LocalFolder:
    """A local folder, as an open archive is."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.names = set(list_files(root))

    def read(self, name: str, limit: int) -> bytes:
        # Unbuffered, of a string, and no more than it has: Python takes memory for what is asked.
        with open(f"{self._root}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
            size = min(os.fstat(file.fileno()).st_size, limit)
            content = file.read(size + 1)
        if len(content) > limit:
            raise ArchiveError(f"{self._root / name}: longer than {limit} bytes.")
        return content

    def close(self) -> None:
        pass


class SplitFiles:
    """The files of a data set by their path, whatever they lie in; of two alike the first counts.

    Publishers, archives and file systems disagree on a few characters of folder names. A path that
    is not there as it stands is looked for by :func:`_canonical`.
    """

    def __init__(self, source: str, sources: Sequence[Source]) -> None:
        self.source = source
        self._sources = sources
        self._places: dict[str, Source] = {}
        for one in reversed(sources):
            self._places.update(dict.fromkeys(one.names, one))
        self._canonical: dict[str, list[str]] = {}
        for name in self._places:
            self._canonical.setdefault(_canonical(name), []).append(name)

    def find(self, paths: Iterable[str]) -> str | None:
        """The first of ``paths`` that is there, as it is written there.

        Raises:
            CompositionalError: two files may be meant, and they differ.
        """
        tried = list(paths)
        for path in tried:
            if path in self._places:
                return path
        for path in tried:
            found = self._canonical.get(_canonical(path), [])
            if len(found) > 1 and len({self.read(name, IMAGE_BYTES) for name in found}) > 1:
                raise CompositionalError(
                    f"{self.source}: {path!r} may be {found[0]!r} or {found[1]!r}: remove one."
                )
            if found:
                return found[0]
        return None

    def read(self, name: str, limit: int) -> bytes:
        return self._places[name].read(name, limit)

    def named_like(self, start: str, endings: Collection[str]) -> list[str]:
        """The files whose name begins and ends so, sorted, wherever they lie."""
        return sorted(
            path
            for path in self._places
            if (name := PurePosixPath(path)).name.startswith(start) and name.suffix in endings
        )

    def has(self, layout: Layout, path: str) -> bool:
        """Whether :meth:`required` finds it."""
        return self.find(_under(layout, path)) is not None

    def required(self, layout: Layout, path: str, limit: int) -> tuple[str, bytes]:
        """A file's name, for messages, and its content."""
        name = self.find(_under(layout, path))
        if name is None:
            folders = " or ".join(root or "its root" for root in layout.roots)
            raise CompositionalError(f"{self.source}: there is no {path} in {folders}.")
        return f"{self.source}: {name}", self.read(name, limit)

    def text(self, layout: Layout, path: str) -> tuple[str, str]:
        """As :meth:`required`, decoded."""
        name, content = self.required(layout, path, TEXT_BYTES)
        try:
            return name, content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CompositionalError(f"{name}: byte {error.start} is not UTF-8.") from error

    def close(self) -> None:
        for source in self._sources:
            source.close()


def _under(layout: Layout, path: str) -> list[str]:
    return [f"{root}{path}" for root in layout.roots]


def _canonical(path: str) -> str:
    """A path with its folders as all of them might be written."""
    *folders, name = path.split("/")
    return "/".join([*map(_canonical_folder, folders), name])


@cache
def _canonical_folder(folder: str) -> str:
    """A folder's name without what publishers, archives and file systems disagree on.

    MIT-States' archive has ``ancient clock/`` where the list has ``ancient_clock/``. UT-Zap50K's
    has ``A.P.C%2E/`` where the list has ``A.P.C./`` or ``A.P.C/``, and ``Levi's&#174; Shoes/`` for
    ``Levi's Shoes/`` or ``Levi's® Shoes/``. Other unpackers decompose accents, or take the UTF-8 of
    a zip for the character set of MS-DOS, which a zip's names have where it does not say otherwise.
    """
    if not folder.isascii():
        with suppress(UnicodeError):  # it was no such mistake
            folder = folder.encode("cp437").decode()
    plain = unicodedata.normalize("NFC", html.unescape(unquote(folder))).translate(_SIGNS)
    return " ".join(plain.replace("_", " ").split()).rstrip(".")
