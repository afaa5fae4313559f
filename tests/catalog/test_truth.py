"""What is true of images: several words a group, whatever the groups are called."""

from pathlib import Path

import pyarrow as pa
import pytest

from compositional_prompts.catalog import truth
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.truth import TRUTH, open_truth, read_truth, true_words
from compositional_prompts.files.tables import read_table

ROWS = [
    CatalogRow(
        "a", "a", b"", "a", truth={"material": " Leather; Suede;;Leather ", "colour": "red"}
    ),
    CatalogRow("b", "b", b"", "b", truth={"material": None, "colour": " ; "}),
    CatalogRow("c", "c", b"", "c"),
    CatalogRow("d", "d", b"", "d", truth={"ärmel lang": "kurz"}),
]


def write(path: Path, rows: list[CatalogRow]) -> None:
    with open_truth(path) as writer:
        for row in rows:
            writer.write(row)


def test_words_of_a_cell() -> None:
    assert true_words(" Leather; Suede;;Leather ") == ["Leather", "Suede"]
    assert true_words(None) == true_words(" ; ") == []


@pytest.mark.parametrize("at_once", [1, 2**16])
def test_a_row_a_true_word_in_the_order_of_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(truth, "_ROWS_AT_ONCE", at_once)
    write(tmp_path / "truth.parquet", ROWS)
    rows = read_table(tmp_path / "truth.parquet", TRUTH).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("a", "material", "Leather"),
        ("a", "material", "Suede"),
        ("a", "colour", "red"),
        ("d", "ärmel lang", "kurz"),
    ]


def test_truth_is_joined_on_image_id(tmp_path: Path) -> None:
    write(tmp_path / "truth.parquet", ROWS)
    found = read_truth(tmp_path / "truth.parquet", pa.array(["d", "b", "a"]), ["material", "none"])
    assert found == {"material": [(), (), ("Leather", "Suede")], "none": [(), (), ()]}


def test_a_data_set_without_truth_has_a_table_without_rows(tmp_path: Path) -> None:
    write(tmp_path / "truth.parquet", [])
    assert read_truth(tmp_path / "truth.parquet", pa.array(["a"]), ["color"]) == {"color": [()]}


def test_what_stood_there_stays_where_writing_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "truth.parquet"
    write(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="killed"), open_truth(path) as writer:
        writer.write(ROWS[3])
        raise RuntimeError("killed")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]
