"""No CSV that is written holds what a spreadsheet would run."""

import ast
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

import compositional_prompts
from compositional_prompts.files.records.spreadsheet_cells import (
    FORMULA_SIGNS,
    CsvTable,
    guarded_text,
    plain_text,
)

PACKAGE = Path(compositional_prompts.__file__).parent


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+a", "-a", "@a", "\t=a", "\uff1d1", "=1.jpg", "+"),
        *("'=a", "''-", "'a", "a", "plain", "", "'"),
    ],
)
def test_a_text_comes_back_as_it_was(text: str) -> None:
    assert plain_text(guarded_text(text)) == text
    assert not guarded_text(text).startswith(FORMULA_SIGNS)


def test_header_and_texts_are_guarded_and_numbers_are_not() -> None:
    file = io.StringIO(newline="")
    table = CsvTable(file, ["=name", "value", "note"])
    table.write({"=name": "=cmd|' /C calc'!A0", "value": -1.5})
    table.write({"note": 'a,"b"\n', "value": None})
    with pytest.raises(ValueError, match="found 'other'"):
        table.write({"other": 1})
    assert file.getvalue() == ('\'=name,value,note\n\'=cmd|\' /C calc\'!A0,-1.5,\n,,"a,""b""\n"\n')
    read = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert [plain_text(cell) for cell in next(read)] == ["=name", "value", "note"]


def _calls(function: str) -> Iterator[str]:
    """The modules of the package that call a function of this name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
                yield path.relative_to(PACKAGE).as_posix()


def test_csv_is_written_in_one_place() -> None:
    assert {*_calls("csv.writer")} == {"files/records/spreadsheet_cells.py"}
    assert not list(_calls("csv.DictWriter"))
