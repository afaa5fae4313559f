"""Delimited text (CSV, TSV) as spreadsheets and shops write it, read in bounded memory.

The form is RFC 4180's, and what is found beside it: semicolons, tabs or bars for commas, a first
line ``sep=;``, a byte-order mark, spaces around quotes, and empty rows and columns at the end.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO, Final, NamedTuple

SEPARATORS: Final = (",", ";", "\t", "|")
"""What may part the cells; of two that the header holds equally often the first counts."""

LONGEST_CELL: Final = 2**22
"""Characters; a description of a product in HTML may have some hundred thousand."""

_NAMES: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_LONGEST_LINE: Final = 4 * LONGEST_CELL
_READ_AT_ONCE: Final = 2**16
_DECLARED: Final = re.compile(r'"?sep=(.)"?\1*[\r\n]*', re.IGNORECASE)
_QUOTED: Final = re.compile(r'(?:[^"]|"")*')
_SPACES: Final = re.compile(" +")
_NOT_TEXT: Final = {
    codecs.BOM_UTF16_LE: "UTF-16 (what Excel calls Unicode text)",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"PK\x03\x04": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "compressed",
    b"PAR1": "Parquet (which the data set hub reads)",
}


class DelimitedError(ValueError):
    """A file is no delimited text that can be read; names file and line."""


class DelimitedRow(NamedTuple):
    """A row that is not empty.

    Attributes:
        cells: as many as the table has columns, as they stand there.
        line: its first one, from 1 on.
        start: the byte of the file that it begins at.
        size: its bytes, with the end of the line.
    """

    cells: list[str]
    line: int
    start: int
    size: int


class Delimited:
    """A table of delimited text with a header, read from an open file as often as it is asked for.

    UTF-8, with or without a byte-order mark; LF, CRLF or CR. The separator is what ``sep=`` in the
    first line says, else what parts the header into most columns.

    Attributes:
        source: the file's name, for messages.
        columns: what the header calls them, without outer space; those at its end that have no
            name are left out.
        twice: the names that stand there more than once, in order.
        separator: between cells.
    """

    def __init__(self, file: BinaryIO, source: str) -> None:
        """Read the header.

        Args:
            file: seekable; stays open, for the rows.
            source: its name, for messages.

        Raises:
            DelimitedError: the file is not UTF-8, or its header no row of delimited text.
        """
        self.source = source
        self._file = file
        self._begin = _check_text(file, source)
        self._lines_before = 0
        self.separator = ","
        self.columns: list[str] = []
        first = self._first_line()
        declared = _DECLARED.fullmatch(first)
        if declared:
            self.separator = declared[1]
            self._begin += len(first.encode())
            self._lines_before = 1
        else:
            self.separator = self._found_separator()
        header = self._first_row()
        self._header_line = header.line if header else self._lines_before + 1
        names = [name.strip() for name in header.cells] if header else []
        while names and not names[-1].strip("".join(SEPARATORS)):
            names.pop()
        self.columns = names
        self._places = {name: names.index(name) for name in names if name}
        self.twice = list(dict.fromkeys(one for one in names if one and names.count(one) > 1))

    @property
    def header(self) -> str:
        """File and line of the header, for messages."""
        return f"{self.source}, line {self._header_line}"

    @property
    def parted_by(self) -> str:
        """The separator in words."""
        return _NAMES.get(self.separator, repr(self.separator))

    def place(self, row: DelimitedRow) -> str:
        """File and line of a row, for messages."""
        return f"{self.source}, line {row.line}"

    def rows(self) -> Iterator[DelimitedRow]:
        """The rows behind the header, without those whose cells are all blank.

        The file is read as they are asked for, and is to be read by nothing else meanwhile.

        Raises:
            DelimitedError: a row has not as many cells as the header, but for blank ones beyond
                it, or is no delimited text.
        """
        records = self._rows_from(self._begin, self._lines_before)
        next(records, None)  # the header
        for row in records:
            yield row._replace(cells=self._fitted(row))

    def cells_at(self, start: int, size: int) -> list[str]:
        """The cells of the row that ``size`` bytes from ``start`` on held when it was read.

        Raises:
            DelimitedError: there is another thing now.
        """
        self._file.seek(start)
        try:
            lines = io.StringIO(self._file.read(size).decode(), newline="")
            reader = _Reader(lines.readline, self.separator)
            cells, rest = next(reader, None), next(reader, None)
        except (UnicodeDecodeError, csv.Error):
            cells = rest = None
        if cells is None or rest is not None or len(cells) < len(self.columns):
            raise DelimitedError(
                f"{self.source}: the file was changed while it was read; run the stage again."
            )
        return cells[: len(self.columns)]

    def values(self, cells: Sequence[str]) -> dict[str, str]:
        """Cells by column; of a name that stands there twice the first."""
        return {name: cells[place] for name, place in self._places.items()}

    def _fitted(self, row: DelimitedRow) -> list[str]:
        width = len(self.columns)
        if len(row.cells) < width or any(cell.strip() for cell in row.cells[width:]):
            raise DelimitedError(
                f"{self.place(row)}: {len(row.cells)} cells, expected {width} "
                f"({', '.join(self.columns)}), parted by {self.parted_by}; quote a value that "
                f"holds {self.separator!r}."
            )
        return row.cells[:width]

    def _first_line(self) -> str:
        self._file.seek(self._begin)
        text = io.TextIOWrapper(self._file, "utf-8", newline="")
        try:
            return text.readline(_LONGEST_LINE)
        finally:
            text.detach()

    def _first_row(self) -> DelimitedRow | None:
        with closing(self._rows_from(self._begin, self._lines_before)) as rows:
            return next(rows, None)

    def _found_separator(self) -> str:
        widths: dict[str, int] = {}
        problem: DelimitedError | None = None
        for separator in SEPARATORS:
            self.separator = separator
            try:
                header = self._first_row()
            except DelimitedError as error:  # as it is for a separator that stands behind a quote
                problem = problem or error
            else:
                widths[separator] = len(header.cells) if header else 0
        if not widths:
            assert problem is not None
            raise problem
        return max(widths, key=lambda separator: widths[separator])

    def _rows_from(self, start: int, line: int) -> Generator[DelimitedRow]:
        """All rows that are not blank from a byte on, which ``line`` lines are before."""
        self._file.seek(start)
        text = io.TextIOWrapper(self._file, "utf-8", newline="")
        end, lines = start, line

        def read_line() -> str:
            nonlocal end, lines
            found = text.readline(_LONGEST_LINE)
            if len(found) == _LONGEST_LINE:
                raise DelimitedError(
                    f"{self.source}, line {lines + 1}: longer than {_LONGEST_LINE} characters; "
                    "this is no table of delimited text."
                )
            end += len(found.encode())
            lines += bool(found)
            return found

        begun, first = end, lines + 1
        try:
            for cells in _Reader(read_line, self.separator):
                if any(cell.strip() for cell in cells):
                    yield DelimitedRow(cells, first, begun, end - begun)
                begun, first = end, lines + 1
        except csv.Error as error:
            reason = str(error)
            if "unexpected end of data" in reason or "field limit" in reason:
                reason = "a quote that is opened here is not closed"
            raise DelimitedError(
                f"{self.source}, line {first}: not CSV, parted by {self.parted_by}: {reason}."
            ) from error
        finally:
            if not self._file.closed:  # as it may be for rows that nobody asked for
                text.detach()


class _Reader:
    """Rows of cells by :mod:`csv`, which would take the spaces around a quoted cell for a part of
    it, and the quotes too."""

    def __init__(self, read_line: Callable[[], str], separator: str) -> None:
        self._read_line = read_line
        self._separator = separator
        self._within = False  # a row, and so a quoted cell
        self._reader = csv.reader(self._lines(), delimiter=separator, strict=True)

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        self._within = False
        limit = csv.field_size_limit(LONGEST_CELL)  # of the process, and others count on theirs
        try:
            return next(self._reader)
        finally:
            csv.field_size_limit(limit)

    def _lines(self) -> Iterator[str]:
        while line := self._read_line():
            spaced = ' "' in line or '" ' in line
            within, self._within = self._within, True
            yield _without_space(line, self._separator, within) if spaced else line


def _without_space(line: str, separator: str, quoted: bool) -> str:
    """A line without the spaces around its quoted cells; ``quoted``: it begins within one."""
    kept: list[str] = []
    position = 0
    while position < len(line):
        if not quoted:
            spaces = _SPACES.match(line, position)
            opening = spaces.end() if spaces else position
            if not line.startswith('"', opening):
                end = line.find(separator, position) + 1 or len(line)
                kept.append(line[position:end])
                position = end
                continue
            kept.append('"')
            position = opening + 1
        inside = _QUOTED.match(line, position)
        assert inside is not None  # it matches nothing too
        if inside.end() == len(line):
            kept.append(inside[0])
            break
        kept.append(f'{inside[0]}"')
        position = inside.end() + 1
        spaces = _SPACES.match(line, position)
        if spaces and line[spaces.end() : spaces.end() + 1] in (separator, "\r", "\n", ""):
            position = spaces.end()
        end = line.find(separator, position) + 1 or len(line)
        kept.append(line[position:end])
        position = end
        quoted = False
    return "".join(kept)


def other_kind(begin: bytes) -> str | None:
    """What a file is by how it begins, if it is no text in UTF-8."""
    kind = next((kind for sign, kind in _NOT_TEXT.items() if begin.startswith(sign)), None)
    return "UTF-16 or no text" if kind is None and b"\0" in begin[:4] else kind


def _check_text(file: BinaryIO, source: str) -> int:
    """Where the text of a file begins, all of which is UTF-8."""
    file.seek(0)
    begin = file.read(_READ_AT_ONCE)
    kind = other_kind(begin)
    if kind is not None:
        raise DelimitedError(
            f"{source}: the file is {kind}, expected UTF-8; save it as UTF-8 (in Excel: Save as, "
            "CSV UTF-8)."
        )
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    file.seek(0)
    try:
        while block := file.read(_READ_AT_ONCE):
            decoder.decode(block)
            line += block.count(b"\n")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise DelimitedError(
            f"{source}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8; save "
            "the file as UTF-8 (in Excel: Save as, CSV UTF-8)."
        ) from error
    return len(codecs.BOM_UTF8) if begin.startswith(codecs.BOM_UTF8) else 0
