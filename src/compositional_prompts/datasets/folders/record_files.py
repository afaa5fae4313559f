"""Files in which people keep what they know of their images, as records that are read again."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, NamedTuple

from compositional_prompts.catalog.image_files import FolderError
from compositional_prompts.files.records.delimited import Delimited
from compositional_prompts.files.records.json_records import json_at, json_lines, json_lists

LINES: Final = (".jsonl", ".ndjson")

_MOST_COLUMNS: Final = 4096
_BEGIN: Final = 2**16
_COCO: Final = ("images", "annotations")


class FileRecord(NamedTuple):
    """What a file says of an image.

    Attributes:
        values: by column.
        number: its line or entry, from 1 on.
        start: where the file finds it again,
        size: and how much of the file it is.
        further: captions that the file has of the image, beyond the one in ``values``.
    """

    values: Mapping[str, Any]
    number: int
    start: int
    size: int
    further: int = 0


class RecordFile(ABC):
    """A file of records; memory holds one of them at a time.

    Attributes:
        source: its name, for messages.
        columns: what any of the records has.
        twice: of these, those that a header names more than once.
    """

    unit: ClassVar[str]

    source: str
    columns: Sequence[str]
    twice: Sequence[str] = ()

    def __init__(self, source: str, file: BinaryIO, again: BinaryIO) -> None:
        """Read what must be known beforehand.

        Args:
            source: the file's name, for messages.
            file: open, to be read from begin to end,
            again: and once more, to go back to what was read.
        """
        self.source = source
        self._file = file
        self._again = again

    def close(self) -> None:
        self._file.close()
        self._again.close()

    def place(self, number: int) -> str:
        """A record, for messages."""
        return f"{self.source}, {self.unit} {number}"

    @abstractmethod
    def records(self) -> Iterator[FileRecord]:
        """All of them.

        Raises:
            DelimitedError: it is no delimited text.
            JsonError: it is no JSON.
        """

    @abstractmethod
    def values_at(self, start: int, size: int) -> Mapping[str, Any]:
        """What a record says, again.

        Raises:
            DelimitedError: the file was changed.
            JsonError: the file was changed.
        """


def open_records(path: Path) -> RecordFile:
    """Open a file: delimited text, JSON Lines, a JSON list, or COCO's JSON, by what it is.

    Raises:
        FolderError: it is JSON of another kind.
        DelimitedError: it is no delimited text that can be read.
        JsonError: it is no JSON that can be read.
        OSError: it cannot be read.
    """
    kind = _kind(path)
    with ExitStack() as files:
        file, again = (files.enter_context(path.open("rb")) for _ in range(2))
        opened = kind(str(path), file, again)
        files.pop_all()  # they stay open: its close() closes them
    return opened


def _kind(path: Path) -> type[RecordFile]:
    extension = path.suffix.lower()
    if extension in LINES:
        return JsonLinesFile
    with path.open("rb") as file:
        begin = file.read(_BEGIN).removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin.startswith(b"["):
        return JsonListFile
    if begin.startswith(b"{"):
        return JsonLinesFile if _is_lines(begin) else CocoFile
    return JsonListFile if extension == ".json" else DelimitedFile


def _is_lines(begin: bytes) -> bool:
    first, _, rest = begin.partition(b"\n")
    if not rest.lstrip().startswith(b"{"):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


class DelimitedFile(RecordFile):
    """Delimited text with a header."""

    unit: ClassVar[str] = "line"

    def __init__(self, source: str, file: BinaryIO, again: BinaryIO) -> None:
        super().__init__(source, file, again)
        self._table = Delimited(file, source)
        self._read_again = Delimited(again, source)
        self.columns = list(dict.fromkeys(filter(None, self._table.columns)))
        self.twice = self._table.twice

    def records(self) -> Iterator[FileRecord]:
        for row in self._table.rows():
            yield FileRecord(self._table.values(row.cells), row.line, row.start, row.size)

    def values_at(self, start: int, size: int) -> Mapping[str, Any]:
        return self._read_again.values(self._read_again.cells_at(start, size))


class JsonLinesFile(RecordFile):
    """JSON Lines."""

    unit: ClassVar[str] = "line"

    def __init__(self, source: str, file: BinaryIO, again: BinaryIO) -> None:
        super().__init__(source, file, again)
        self.columns = _columns((one.value for one in json_lines(file, source)), source)

    def records(self) -> Iterator[FileRecord]:
        for one in json_lines(self._file, self.source):
            yield FileRecord(one.value, one.number, one.start, one.size)

    def values_at(self, start: int, size: int) -> Mapping[str, Any]:
        return json_at(self._again, self.source, start, size)


class JsonListFile(RecordFile):
    """A JSON list of records, such as LAVIS' annotations: image, caption and image_id."""

    unit: ClassVar[str] = "entry"

    def __init__(self, source: str, file: BinaryIO, again: BinaryIO) -> None:
        super().__init__(source, file, again)
        self.columns = _columns((one.value for one in json_lists(file, source)), source)

    def records(self) -> Iterator[FileRecord]:
        for one in json_lists(self._file, self.source):
            yield FileRecord(one.value, one.number, one.start, one.size)

    def values_at(self, start: int, size: int) -> Mapping[str, Any]:
        return json_at(self._again, self.source, start, size)


class CocoFile(RecordFile):
    """COCO's caption annotations: a list ``images`` and a list ``annotations``.

    A record is an image and its first annotation in the order of the file; where both have a
    column, it is that of the image. Memory takes 40 bytes an image and its id.
    """

    unit: ClassVar[str] = "image"

    def __init__(self, source: str, file: BinaryIO, again: BinaryIO) -> None:
        super().__init__(source, file, again)
        # Of every image: where it is in the file, and where its first annotation is.
        self._image_starts, self._image_sizes = array("q"), array("q")
        self._starts, self._sizes, self._further = array("q"), array("q"), array("q")
        places = self._read_images()
        self._read_annotations(places)

    def _read_images(self) -> dict[object, int]:
        places: dict[object, int] = {}
        members: Counter[str | None] = Counter()
        columns: dict[str, None] = {}
        for one in json_lists(self._file, self.source):
            members[one.member] += 1
            if one.member in _COCO:
                _add_columns(columns, one.value, self.source)
            if one.member != "images":
                continue
            image_id = self._id(one.value, "id", f"image {one.number}")
            if image_id in places:
                raise FolderError(
                    f"{self.source}: the images {places[image_id] + 1} and {one.number} have both "
                    f"the id {image_id!r}."
                )
            places[image_id] = len(places)
            self._image_starts.append(one.start)
            self._image_sizes.append(one.size)
        if not all(members[name] for name in _COCO):
            found = ", ".join(str(name) for name in members) or "none"
            raise FolderError(
                f"{self.source}: expected COCO's captions, lists of images and annotations (found "
                f"lists: {found}), or a list of records, or a record a line."
            )
        self.columns = list(columns)
        for column in (self._starts, self._sizes, self._further):
            column.frombytes(bytes(8 * len(places)))
        return places

    def _read_annotations(self, places: Mapping[object, int]) -> None:
        for one in json_lists(self._file, self.source):
            if one.member != "annotations":
                continue
            where = f"annotation {one.number}"
            image_id = self._id(one.value, "image_id", where)
            if image_id not in places:
                raise FolderError(
                    f"{self.source}, {where}: image_id is {image_id!r}, and no image has that id."
                )
            place = places[image_id]
            if self._sizes[place]:
                self._further[place] += 1
            else:
                self._starts[place], self._sizes[place] = one.start, one.size

    def _id(self, value: Mapping[str, Any], column: str, where: str) -> object:
        found = value.get(column)
        if not isinstance(found, int | str):
            raise FolderError(f"{self.source}, {where}: {column} is no number and no text.")
        return found

    def records(self) -> Iterator[FileRecord]:
        for place in range(len(self._starts)):
            yield FileRecord(self.values_at(place, 1), place + 1, place, 1, self._further[place])

    def values_at(self, start: int, size: int) -> Mapping[str, Any]:
        image = self._at(self._image_starts[start], self._image_sizes[start])
        if not self._sizes[start]:
            return image
        return {**self._at(self._starts[start], self._sizes[start]), **image}

    def _at(self, start: int, size: int) -> dict[str, Any]:
        return json_at(self._again, self.source, start, size)


def _columns(records: Iterable[Mapping[str, Any]], source: str) -> list[str]:
    columns: dict[str, None] = {}
    for record in records:
        _add_columns(columns, record, source)
    return list(columns)


def _add_columns(columns: dict[str, None], record: Mapping[str, Any], source: str) -> None:
    columns.update(dict.fromkeys(record))
    if len(columns) > _MOST_COLUMNS:
        raise FolderError(
            f"{source}: its records have more than {_MOST_COLUMNS} different names of values; "
            "this is no table."
        )
