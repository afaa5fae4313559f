"""Which image of a folder somebody's table means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from compositional_prompts.catalog.image_files import image_extensions, is_image_name
from compositional_prompts.files.sorted_names import SortedNames


class NamedImages:
    """The images of a folder, found by what tables call them.

    As a rule that is the path in the folder, with ``/``. Backslashes, the name of the folder (and
    whatever is before it), spaces around and a missing extension are no reason not to find one.
    """

    def __init__(self, paths: SortedNames, directory: Path) -> None:
        self.paths = paths
        self._directory = directory
        # Both that of a link and that of what it leads to.
        self._names = {directory.name, directory.absolute().name, directory.resolve().name} - {""}

    def __len__(self) -> int:
        return len(self.paths)

    def find(self, cell: str, inside: str = "") -> int | None:
        """The position of the image that a cell names; None where there is none.

        Args:
            cell: as it stands there.
            inside: the folder, with ``/`` at its end, that it is relative to.
        """
        for candidate in self._candidates(cell):
            position = self.paths.find(inside + candidate)
            if position is not None:
                return position
        return None

    def why_none(self, cell: str, inside: str = "") -> str:
        """Why :meth:`find` finds nothing, and what to do."""
        path = inside + PurePosixPath(cell.strip()).as_posix()
        return f"{path!r} is no image under {self._directory}: {self._cause(path)}"

    def _candidates(self, cell: str) -> Iterator[str]:
        """The paths that a cell may mean, the likelier one first."""
        yield cell  # as it is nearly always written; found, it is what the next one would be
        yield PurePosixPath(cell).as_posix()
        # A space around it is a slip of the pen, but for a file whose name has one.
        stripped = cell.strip()
        yield PurePosixPath(stripped).as_posix()
        # The apostrophe keeps a spreadsheet from running a name such as "=1.jpg".
        yield PurePosixPath(stripped.removeprefix("'")).as_posix()
        path = PurePosixPath(stripped.replace("\\", "/"))
        yield path.as_posix()
        inner = [
            "/".join(path.parts[place:])
            for place in range(len(path.parts) - 1, 0, -1)
            if path.parts[place - 1] in self._names
        ]
        yield from inner
        if not is_image_name(path.name):
            for extension in image_extensions():
                for ending in (extension, extension.upper()):
                    for one in (path.as_posix(), *inner):
                        yield f"{one}{ending}"

    def _cause(self, path: str) -> str:
        folded = path.casefold()
        alike = next((other for other in self.paths if other.casefold() == folded), None)
        if alike is not None:
            return f"case matters, and there is {alike!r}."
        try:
            there = Path(self._directory, path).is_file()
        except OSError:  # no file can have such a name, or its folder is closed to us
            there = False
        if not there:
            return self._elsewhere(path)
        if not is_image_name(path):
            return (
                "the file is there, but is passed over, as its name ends in none of "
                f"{', '.join(image_extensions())}; convert it, or rename it if it is one of these."
            )
        if any(part.startswith(".") for part in PurePosixPath(path).parts if part != ".."):
            return "hidden files and folders are skipped; rename it."
        return (
            "the file is there, but found by another path; write it relative to the folder, "
            "without .., and of several links to one folder the first is taken."
        )

    def _elsewhere(self, path: str) -> str:
        for other in self.paths:
            if path.endswith(f"/{other}"):
                return (
                    f"there is {other!r}; leave out the folders before it, or rename "
                    f"{self._directory} to the last of them."
                )
            if other.endswith(f"/{path}"):
                return f"there is {other!r}; write the folders too."
        return (
            "there is no such file; an image is named by its path in the folder, with / between "
            "folders."
        )
