"""The photos of a feed in a folder, found by the names of files in their addresses."""

from __future__ import annotations

import urllib.parse
from pathlib import Path, PurePosixPath

from compositional_prompts.catalog.image_files import find_images
from compositional_prompts.datasets.feeds.photo_downloads import Fetched
from compositional_prompts.files.sorted_names import SortedNames


class PhotoFolder:
    """Finds photos in a folder and its subfolders.

    Of several files of one name it is that whose folders are most like those of the address, as
    in a copy of ``wp-content/uploads`` with its years and months.

    Attributes:
        passed_over: how many other files the folder has, by extension.
    """

    def __init__(self, folder: Path) -> None:
        """Look what is there: 40 bytes of memory a photo, and its path.

        Raises:
            FolderError: there is no image, or a name of one is not UTF-8.
        """
        found = find_images(folder)
        self.passed_over = found.passed_over
        self._folder = folder
        # From the name to the folders, so that those of one name are side by side.
        self._turned = SortedNames(_turned(path) for path in found.paths)

    def find(self, url: str) -> Fetched:
        """The file of an address, or why there is none."""
        try:
            parts = urllib.parse.urlsplit(url)
        except ValueError:
            return Fetched(None, "bad_address")
        path = urllib.parse.unquote(parts.path) if parts.scheme else url
        wanted = _turned(path.strip("/")).split("/")
        name = wanted[0]
        if not name:
            return Fetched(None, "bad_address")
        alike: list[tuple[tuple[int, bool], str]] = []
        for turned in self._turned.beginning_with(name):
            found = turned.split("/")
            bare, _, query = found[0].partition("?")
            if name in (bare, found[0]):
                same_query = found[0] == name or query == parts.query
                alike.append(((_common(found[1:], wanted[1:]), same_query), turned))
        if not alike:
            return Fetched(None, "not_found")
        most = max(likeness for likeness, _ in alike)
        best = [turned for likeness, turned in alike if likeness == most]
        if len(best) > 1:
            return Fetched(None, "ambiguous_name")
        return Fetched(self._folder / _turned(best[0]))


def _turned(path: str) -> str:
    return "/".join(reversed(PurePosixPath(path).parts))


def _common(first: list[str], second: list[str]) -> int:
    """How many parts two paths have in common at their beginning."""
    for count, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return count
    return min(len(first), len(second))
