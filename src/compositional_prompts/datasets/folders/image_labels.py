"""What files say of the images of a folder, found again by image without being in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.catalog.image_files import FolderError
from compositional_prompts.datasets.columns import ColumnReader, Columns
from compositional_prompts.datasets.folders.customary_columns import meant_columns
from compositional_prompts.datasets.folders.named_images import NamedImages
from compositional_prompts.datasets.folders.record_files import RecordFile, open_records

RECORD: Final = np.dtype(
    [("start", np.int64), ("number", np.uint32), ("size", np.uint32), ("file", np.uint32)]
)
"""Where what is said of an image is; ``number`` is 0 where nothing is."""

_EXPLAINED: Final = 5
"""Records whose image is not there of which it is found out why."""


class Said(NamedTuple):
    """What is said of an image; None where nothing is."""

    product_id: str | None = None
    attribute: str | None = None
    object: str | None = None
    title: str | None = None
    split: str | None = None
    truth: Mapping[str, str | None] = {}  # nobody writes to it


class Labels(Protocol):
    """What is said of the images of a folder.

    Attributes:
        kept_out: columns that say nothing to us; None where there are no columns.
        further_captions: captions of images that have one already.
        nowhere: of images that are named and not there, by what they are called, where and why.
    """

    kept_out: Sequence[str] | None
    further_captions: int
    nowhere: Mapping[str, str]

    def __len__(self) -> int:
        """How many images something is said of."""

    def of(self, position: int, path: str) -> Said | None:
        """What is said of an image; None where nothing is.

        Args:
            position: of the image among all.
            path: of the image.
        """

    def close(self) -> None:
        """Let go of what it is read from."""


class LabelFile(NamedTuple):
    """A file of labels, and the folder that its names of images are relative to.

    ``inside`` is a path in the folder of images with ``/`` at its end, or nothing.
    """

    path: Path
    inside: str = ""


class FileLabels:
    """What files of records say, checked, and read again where it is asked for.

    Memory is 20 bytes an image.
    """

    def __init__(
        self,
        files: Sequence[LabelFile],
        images: NamedImages,
        columns: Columns,
        truth: Sequence[str],
        missing: Sequence[str],
    ) -> None:
        """Read all of them.

        Args:
            files: together they may say something of an image once.
            images: of the folder.
            columns: as the parameters name them.
            truth: groups of truth that have columns of their names.
            missing: values that mean "not known".

        Raises:
            FolderError: no record names an image that is there, a record's name is empty, or an
                image is named twice, but for captions.
            DelimitedError, JsonError: a file is not what it should be.
            ColumnError: a value is not what it should be.
        """
        self._images = images
        self._records: NDArray[Any] = np.zeros(len(images), RECORD)
        nowhere: dict[str, str] = {}
        self.nowhere: Mapping[str, str] = nowhere
        self._tables: list[_Table] = []
        self.further_captions = 0
        with ExitStack() as opened:
            for number, file in enumerate(files):
                table = _Table(file, columns, truth, missing)
                opened.callback(table.file.close)
                self._tables.append(table)
                self._read(table, number, nowhere)
            if self.nowhere and not len(self):
                first, *others = self.nowhere.values()
                more = f" None of {len(others) + 1} names is one of an image." if others else ""
                raise FolderError(f"{first}{more}")
            self._opened = opened.pop_all()
        names = (name for table in self._tables for name in table.kept_out)
        self.kept_out: Sequence[str] | None = list(dict.fromkeys(names))

    def __len__(self) -> int:
        return int(np.count_nonzero(self._records["number"]))

    def of(self, position: int, path: str) -> Said | None:
        """See :class:`Labels`.

        Raises:
            FolderError: a file is not what it was when it was checked.
            DelimitedError, JsonError: the same.
        """
        record = self._records[position]
        if not record["number"]:
            return None
        table: _Table = self._tables[record["file"]]
        values = table.file.values_at(int(record["start"]), int(record["size"]))
        place = table.file.place(int(record["number"]))
        if self._images.find(table.cell(values), table.inside) != position:
            raise FolderError(
                f"{place}: the file was changed while it was read; run the stage again."
            )
        return table.said(values, place)[0]

    def close(self) -> None:
        self._opened.close()

    def _read(self, table: _Table, number: int, nowhere: dict[str, str]) -> None:
        for record in table.file.records():
            place = table.file.place(record.number)
            cell = table.cell(record.values)
            if not cell.strip():
                raise FolderError(f"{place}: {table.columns.image} is empty.")
            position = self._images.find(cell, table.inside)
            if position is None:
                if cell not in nowhere:
                    # To find out why takes a look at every name.
                    explained = len(nowhere) < _EXPLAINED
                    why = self._images.why_none(cell, table.inside) if explained else repr(cell)
                    nowhere[cell] = f"{place}: {why}"
                continue
            said, further = table.said(record.values, place)
            self.further_captions += further + record.further
            if self._records[position]["number"]:
                self._require_caption(position, said, place)
                self.further_captions += 1
            else:
                self._records[position] = (record.start, record.number, record.size, number)

    def _require_caption(self, position: int, said: Said, place: str) -> None:
        """Raise unless what is said of an image once more is another caption."""
        path = self._images.paths[position]
        before = self.of(position, path)
        assert before is not None
        both = before.title and said.title and before.product_id == said.product_id
        if not both or _is_labelled(before) or _is_labelled(said):
            record = self._records[position]
            earlier = self._tables[record["file"]].file
            raise FolderError(
                f"{place}: {path!r} was already named in {earlier.place(int(record['number']))}; "
                "only captions without labels may be several of an image."
            )


def _is_labelled(said: Said) -> bool:
    words = (said.attribute, said.object, *said.truth.values())
    return any(word is not None for word in words)


class _Table:
    """A file, and what its columns are."""

    def __init__(
        self, file: LabelFile, columns: Columns, truth: Sequence[str], missing: Sequence[str]
    ) -> None:
        self.inside = file.inside
        self.file: RecordFile = open_records(file.path)
        try:
            self.columns = meant_columns(columns, truth, self.file)
        except BaseException:
            self.file.close()
            raise
        self.kept_out = self.columns.kept_out(self.file.columns)
        self._reader = ColumnReader(self.columns, missing)
        self._image = self.columns.image or ""

    def cell(self, values: Mapping[str, Any]) -> str:
        """What a record calls its image."""
        value = values.get(self._image)
        return value if isinstance(value, str) else "" if value is None else str(value)

    def said(self, values: Mapping[str, Any], place: str) -> tuple[Said, int]:
        """What a record says, and how many captions it has beyond the one that is taken."""
        further = 0
        column = self.columns.title
        captions = values.get(column) if column is not None else None
        if isinstance(captions, list):
            first = captions[0] if captions else None
            further = max(0, len(captions) - 1)
            values = {**values, column or "": first}
        reader, columns = self._reader, self.columns
        described = reader.describe(values, place)
        said = Said(
            described.product_id,
            # Not those of what is described, where one without the other is none: whether it is
            # depends on all others.
            reader.label(values, columns.attribute, place),
            reader.label(values, columns.object, place),
            described.title,
            None,
            described.truth,
        )
        return said, further
