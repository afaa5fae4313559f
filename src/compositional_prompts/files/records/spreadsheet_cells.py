"""CSV that spreadsheets open: the one writer of it, which leaves them nothing to run."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import IO, Final

FORMULA_SIGNS: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What a spreadsheet takes for the start of a formula, in full width too, as those of some
languages do; an apostrophe before it says text."""


class CsvTable:
    """A CSV being written: a header, then rows; texts are guarded (:func:`guarded_text`)."""

    def __init__(self, file: IO[str], columns: Sequence[str], end: str = "\n") -> None:
        """Write the header.

        Args:
            file: opened with ``newline=""``.
            columns: their names.
            end: of a line.
        """
        self._columns = columns
        self._writer = csv.writer(file, lineterminator=end)
        self._writer.writerow(map(guarded_text, columns))

    def write(self, row: Mapping[str, object]) -> None:
        """Append a row; a column that it lacks, or has None of, is an empty cell.

        Raises:
            ValueError: it has another column.
        """
        strange = row.keys() - set(self._columns)
        if strange:
            raise ValueError(f"the columns are {', '.join(self._columns)}, found {min(strange)!r}.")
        cells = (row.get(name) for name in self._columns)
        self._writer.writerow(guarded_text(one) if isinstance(one, str) else one for one in cells)


def plain_text(cell: str) -> str:
    """A cell of a CSV without the apostrophe that keeps a spreadsheet from running it."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def guarded_text(text: str) -> str:
    """A cell for a CSV; :func:`plain_text` gives the text back."""
    return f"'{text}" if _is_formula(text) else text


def _is_formula(text: str) -> bool:
    # Behind apostrophes too, of which one was perhaps put there to guard it.
    return text.lstrip("'").startswith(FORMULA_SIGNS)
