"""A CSV for a shop's import: no photos, which the shop has."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa

from compositional_prompts.deployment.dataset_export.forms.form_writer import Values
from compositional_prompts.deployment.dataset_export.photo_files import PhotoFile
from compositional_prompts.files.records.spreadsheet_cells import CsvTable

TABLE: Final = "captions.csv"


class ShopCsv:
    """``captions.csv`` as RFC 4180 has it, in UTF-8.

    A text that a spreadsheet would run as a formula begins with an apostrophe; what is not known
    is an empty cell.
    """

    def __init__(self, directory: Path, schema: pa.Schema) -> None:
        self._file = (directory / TABLE).open("w", encoding="utf-8", newline="")
        self._table = CsvTable(self._file, schema.names, "\r\n")

    def write(self, values: Values, photo: PhotoFile | None) -> None:
        self._table.write(values)

    def finish(self) -> None:
        self._file.close()
