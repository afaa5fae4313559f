"""A user's own directory of images, with an optional CSV of labels."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from compositional_prompts.catalog.image_files import (
    FolderError,
    find_images,
    image_extensions,
    is_image_name,
)
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.dataset import Caveat, DataSet, Selection
from compositional_prompts.files.sorted_names import SortedNames
from compositional_prompts.pipeline.section import Base
from compositional_prompts.prompt.pair import dotted

LABEL_COLUMNS: Final = ("attribute", "object", "title", "product_id")
"""What any CSV may say of an image, beside its ``image_path``."""

_PATH_COLUMN: Final = "image_path"
_ID_COLUMN: Final = "image_id"  # another name of it, as in the CSV of a page that asks for labels

Labels = Mapping[str, str | None]

_RECORD: Final = np.dtype([("start", np.int64), ("line", np.int64), ("size", np.uint32)])
_READ_AT_ONCE: Final = 2**16


class Folder(DataSet):
    """The images of a directory, sorted by path, with what its CSV says of them.

    The ``image_id`` is the path relative to the directory, with ``/`` between its parts.
    """

    name: ClassVar[str] = "folder"
    caveat: ClassVar[Caveat] = Caveat(
        "Your labels are the truth",
        "Accuracies compare with the labels given in the CSV, as they are. Where there are none, "
        "nothing can be measured and the page shows a dash.",
    )
    description: ClassVar[str] = "a folder of the exporter's own photographs"
    licence: ClassVar[str] = "Whose the photographs are, the exporter knows."
    grows: ClassVar[bool] = True

    path: str
    labels: str | None
    truth: list[Annotated[str, Field(min_length=1)]]
    on_missing: Literal["drop", "keep"]

    @field_validator("truth")
    @classmethod
    def _columns_of_truth(cls, groups: list[str]) -> list[str]:
        taken = [name for name in groups if name in ("image_path", *LABEL_COLUMNS)]
        if taken:
            raise ValueError(f"{taken[0]} is a column with a meaning of its own")
        if len(set(groups)) != len(groups):
            raise ValueError("names a column twice")
        return groups

    def brings_labels(self) -> bool:
        return self.labels is not None

    def files(self) -> list[tuple[str, str]]:
        return [("path", self.path), *([] if self.labels is None else [("labels", self.labels)])]

    def select(self, base: Base) -> Selection:
        """See the class.

        Raises:
            FolderError: the directory is missing or holds no image, a file name is not UTF-8, or
                the CSV is not as :func:`read_labels_csv` expects.
        """
        directory = Path(self.path).expanduser()
        if not directory.is_dir():
            raise FolderError(
                f"download.folder.path: there is no directory {directory} (relative paths start "
                "at the root of the project)."
            )
        paths, passed_over = find_images(directory)
        rows: Iterator[CatalogRow]
        if self.labels is None:
            named = 0
            rows = (_row(directory, path, {}, self.truth) for path in paths)
        else:
            source = Path(self.labels).expanduser()
            if not source.is_file():
                raise FolderError(f"download.folder.labels: there is no file {source}.")
            file = source.open("rb")
            try:
                labels = read_labels_csv(file, str(source), self.truth, paths, str(directory))
            except BaseException:
                file.close()
                raise
            named = len(labels)
            rows = self._labelled(directory, paths, labels)
        kept = named if self.on_missing == "drop" else len(paths)
        dropped = {"missing_label": len(paths) - kept}
        return Selection(str(directory), rows, kept, dropped, passed_over=passed_over)

    def _labelled(
        self, directory: Path, paths: SortedNames, labels: LabelsCsv
    ) -> Iterator[CatalogRow]:
        """The rows that are kept; the CSV is closed at their end."""
        with labels.file:
            for position, path in enumerate(paths):
                found = labels.of(position, path)
                if found is not None or self.on_missing == "keep":
                    yield _row(directory, path, found or {}, self.truth)


@dataclass(frozen=True)
class LabelsCsv:
    """A CSV of labels that was checked, and is read again where an image's labels are asked for.

    It is as large as all names of photos and more, and so not in memory.

    Attributes:
        file: open.
        source: its name, for messages.
        columns: of a row.
        records: where the row of every image is in the file, structured ``[images]``: the bytes
            from ``start`` on, ``size`` of them; ``line`` is its last one, 0 where there is no row.
    """

    file: BinaryIO
    source: str
    columns: Sequence[str]
    records: NDArray[Any]

    def __len__(self) -> int:
        """How many images have a row."""
        return int(np.count_nonzero(self.records["line"]))

    def of(self, position: int, path: str) -> Labels | None:
        """The labels of an image; None where the CSV has no row of it.

        Args:
            position: of the image among all.
            path: of the image.

        Raises:
            FolderError: the file is not what it was when it was checked.
        """
        start, line, size = self.records[position].tolist()
        if not line:
            return None
        try:
            self.file.seek(start)
            text = self.file.read(size).decode()
            (cells,) = csv.reader(io.StringIO(text, newline=""), strict=True)
            values = _values(cells, self.columns)
            if path not in _named_by(cells[self.columns.index("image_path")]):
                raise ValueError(f"{path} is not there")
        except (ValueError, csv.Error) as error:
            raise FolderError(
                f"{self.source}, line {line}: the file was changed while it was read; run the "
                "stage again."
            ) from error
        return _checked_labels(values, f"{self.source}, line {line}")


def read_labels_csv(
    file: BinaryIO, source: str, truth: Sequence[str], paths: SortedNames, directory: str
) -> LabelsCsv:
    """Check a CSV of labels: a column ``image_path``, any of ``LABEL_COLUMNS``, and of truth.

    The column may be called ``image_id`` too, which here is the path.
    UTF-8, with or without a byte-order mark; comma-separated, quoted where needed; LF or CRLF.
    Values lose surrounding space, and empty ones mean unknown; attributes and objects get dots
    for spaces. Memory is 20 bytes an image.

    Args:
        file: from its start on; stays open for what is returned.
        source: its name, for messages.
        truth: attribute groups, of which the CSV may have a column each.
        paths: the images there are, relative to ``directory``, with ``/``.
        directory: its name, for messages.

    Returns:
        The labels of every image named.

    Raises:
        FolderError: naming the line and what is wrong with it.
    """
    _check_utf8(file, source)
    file.seek(0)
    end = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    file.seek(end)
    text = io.TextIOWrapper(file, "utf-8", newline="")

    def lines() -> Iterator[str]:
        nonlocal end
        for line in text:
            end += len(line.encode())
            yield line

    reader = csv.reader(lines(), strict=True)
    columns: list[str] = []
    records = np.zeros(len(paths), _RECORD)
    try:
        header = [name.strip() for name in next(reader, [])]
        named = [_PATH_COLUMN if name == _ID_COLUMN else name for name in header]
        columns = _checked_header(named, truth, source)
        start = end
        for cells in reader:
            begun, start = start, end
            if not cells:
                continue
            place = f"{source}, line {reader.line_num}"
            if len(cells) != len(columns):
                raise FolderError(
                    f"{place}: {len(cells)} cells, expected {len(columns)} "
                    f"({', '.join(columns)}); quote a value that holds a comma."
                )
            position = _image(cells[columns.index("image_path")], place, paths, directory)
            earlier = int(records[position]["line"])
            if earlier:
                path = paths[position]
                raise FolderError(f"{place}: {path!r} was already named in line {earlier}.")
            records[position] = begun, reader.line_num, end - begun
            _checked_labels(_values(cells, columns), place)
    except csv.Error as error:
        raise FolderError(f"{source}, line {reader.line_num}: not CSV: {error}.") from error
    finally:
        text.detach()
    return LabelsCsv(file, source, columns, records)


def _check_utf8(file: BinaryIO, source: str) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    try:
        while block := file.read(_READ_AT_ONCE):
            decoder.decode(block)
            line += block.count(b"\n")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise FolderError(
            f"{source}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8; save "
            "the file as UTF-8."
        ) from error


def _values(cells: Sequence[str], columns: Sequence[str]) -> dict[str, str | None]:
    values = dict(zip(columns, (cell.strip() or None for cell in cells), strict=True))
    del values["image_path"]
    return values


def _checked_header(columns: list[str], truth: Sequence[str], source: str) -> list[str]:
    known = ("image_path", *LABEL_COLUMNS, *truth)
    unknown = [name for name in columns if name not in known]
    if "image_path" not in columns or unknown:
        problem = f"unknown column {unknown[0]!r}" if unknown else "no column 'image_path'"
        raise FolderError(
            f"{source}, line 1: {problem}; found {', '.join(columns) or 'nothing'}; expected "
            f"image_path and any of {', '.join(known[1:])}, separated by commas. A column of truth "
            "bears the name of its attribute group, which download.folder.truth lists."
        )
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise FolderError(f"{source}, line 1: column {twice[0]!r} stands there twice.")
    return columns


def _named_by(cell: str) -> Iterator[str]:
    """The paths that a cell may mean, the likelier one first.

    A space around it is a slip of the pen, but for a file whose name has one.
    """
    yield cell  # as it is nearly always written; found, it is what the next one would be
    yield PurePosixPath(cell).as_posix()
    yield PurePosixPath(cell.strip()).as_posix()
    # The apostrophe keeps a spreadsheet from running a name such as "=1.jpg".
    yield PurePosixPath(cell.strip().removeprefix("'")).as_posix()


def _image(cell: str, place: str, paths: SortedNames, directory: str) -> int:
    """The position of the image that a cell names."""
    if not cell.strip():
        raise FolderError(f"{place}: image_path is empty.")
    for candidate in _named_by(cell):
        position = paths.find(candidate)
        if position is not None:
            return position
    path = PurePosixPath(cell.strip()).as_posix()
    raise FolderError(
        f"{place}: {path!r} is no image under {directory}: {_why_none(path, paths, directory)}"
    )


def _why_none(path: str, paths: SortedNames, directory: str) -> str:
    alike = sorted(other for other in paths if other.casefold() == path.casefold())
    if alike:
        return f"case matters, and there is {alike[0]!r}."
    try:
        there = Path(directory, path).is_file()
    except OSError:  # no file can have such a name, or its folder is closed to us
        there = False
    if not there:
        return "there is no such file; image_path is relative to it, with / between folders."
    if not is_image_name(path):
        return (
            "the file is there, but is passed over, as its name ends in none of "
            f"{', '.join(image_extensions())}; convert it, or rename it if it is one of these."
        )
    if any(part.startswith(".") for part in PurePosixPath(path).parts if part != ".."):
        return "hidden files and folders are skipped; rename it."
    return (
        "the file is there, but found by another path; image_path is relative, without .., and "
        "of several links to one folder the first is taken."
    )


def _checked_labels(values: dict[str, str | None], place: str) -> Labels:
    attribute, object_ = values.get("attribute"), values.get("object")
    for name, text in (("attribute", attribute), ("object", object_)):
        if text is not None:
            try:
                values[name] = dotted(text)
            except ValueError as error:
                raise FolderError(f"{place}: {name}: {error}") from error
    return values


def _row(directory: Path, path: str, labels: Labels, groups: Sequence[str]) -> CatalogRow:
    try:
        image = (directory / path).read_bytes()
    except OSError:
        # A dangling link or a file without permission: the ingestion sets it aside and counts it.
        image = None
    return CatalogRow(
        image_id=path,
        product_id=labels.get("product_id") or path,
        image=image,
        path=path,
        attribute=labels.get("attribute"),
        object=labels.get("object"),
        title=labels.get("title"),
        truth={group: labels.get(group) for group in groups},
    )
