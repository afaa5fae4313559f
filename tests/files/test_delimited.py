"""Delimited text, as spreadsheets and shops write it."""

import csv
import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.files.records.delimited import (
    LONGEST_CELL,
    SEPARATORS,
    Delimited,
    DelimitedError,
)


def table(text: str | bytes) -> Delimited:
    content = text.encode() if isinstance(text, str) else text
    return Delimited(io.BytesIO(content), "labels.csv")


def records(text: str | bytes) -> list[dict[str, str]]:
    """Its rows, each the same when it is read again."""
    found = table(text)
    rows = list(found.rows())
    assert [found.cells_at(row.start, row.size) for row in rows] == [row.cells for row in rows]
    return [found.values(row.cells) for row in rows]


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        "a;b\n1;2\n",
        "a\tb\n1\t2\n",
        "a|b\n1|2\n",
        "\ufeffa;b\r\n1;2\r\n",
        "a;b\r1;2\r",
        "sep=;\r\na;b\r\n1;2\r\n",
        "\ufeffsep=,\r\na,b\r\n1,2\r\n",
        '"sep=,",,\na,b\n1,2\n',
        "SEP=^\na^b\n1^2",
        'a, b\n1, "2"\n',
        '"a" ,"b"\n "1" , "2" \n',
        "a,b,,\n1,2,,\n,,,\n\n,,,,,,,\n",
        "\n\na,b\n\n1,2",
        '"a","b"\r\n"1","2"\r\n',
    ],
)
def test_one_table_in_every_dialect(text: str) -> None:
    found = records(text)
    assert [{name: cell.strip() for name, cell in row.items()} for row in found] == [
        {"a": "1", "b": "2"}
    ]


def test_separators_in_quotes_and_in_cells_part_nothing() -> None:
    assert records('"a;b;c;d",b\n1;2;3;4,"5,6"\n') == [{"a;b;c;d": "1;2;3;4", "b": "5,6"}]


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        (' "Summer sandal, white"', "Summer sandal, white"),
        (' "x ""507"" y" ', 'x "507" y'),
        ('"x "" y"', 'x " y'),
        (' "one\n "" two\n"', 'one\n " two\n'),
        ('5" heel', '5" heel'),
        (' 5 " heel ', ' 5 " heel '),
        ('" lead.jpg"', " lead.jpg"),
        (" lead.jpg", " lead.jpg"),
        ('  ""', ""),
    ],
)
def test_space_around_quotes_is_no_part_of_a_cell(cell: str, read: str) -> None:
    expected = [{"a": "x", "b": read, "c": "y"}, {"a": "1", "b": "2", "c": "3"}]
    assert records(f"a,b,c\nx,{cell},y\n1,2,3\n") == expected


def test_rows_are_named_by_the_line_they_begin_in() -> None:
    found = table('sep=;\n\na;b\n"1\n2";3\n\n4;5\n')
    assert found.header == "labels.csv, line 3"
    assert [found.place(row) for row in found.rows()] == [
        "labels.csv, line 4",
        "labels.csv, line 7",
    ]
    assert [row.line for row in found.rows()] == [4, 7]  # once more


def test_columns_that_stand_there_twice() -> None:
    found = table("a,b,a,\n1,2,3,4\n")
    assert (found.columns, found.twice) == (["a", "b", "a"], ["a"])
    with pytest.raises(DelimitedError, match=r"line 2: 4 cells, expected 3 \(a, b, a\)"):
        list(found.rows())
    assert records("a,,a\n1,2,3\n") == [{"a": "1"}]


@pytest.mark.parametrize("text", ["", "\ufeff", "\n\n", ",,,\n", "sep=;\n", "sep=;"])
def test_nothing_is_a_table_of_no_columns(text: str) -> None:
    found = table(text)
    assert (found.columns, list(found.rows())) == ([], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a;b\n1;2;3\n", r"line 2: 3 cells, expected 2 \(a, b\), parted by semicolons; quote"),
        ("a,b\n1\n", r"line 2: 1 cells, expected 2"),
        ('a,b\n1,2\n3,"4\n5\n', r"line 3: not CSV, parted by commas: a quote that is opened here"),
        ('a,b\n1,"2"3\n', r"line 2: not CSV, parted by commas: ',' expected after '\"'"),
        ('"a\n', r"line 1: not CSV.*a quote that is opened here is not closed"),
        (b"a,b\n1,caf\xe9\n", r"line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (b"a,b\n1,caf\xc3", r"line 2: byte 0xc3 is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), r"the file is UTF-16 .*Save as, CSV UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-be"), r"the file is UTF-16 or no text"),
        (b"PK\x03\x04\x14", r"the file is an Excel workbook"),
        (b"\x1f\x8b\x08", r"the file is compressed"),
    ],
)
def test_what_is_no_table_is_told_by_its_line(content: str | bytes, message: str) -> None:
    with pytest.raises(DelimitedError, match=rf"^labels\.csv.*{message}"):
        records(content)


def test_a_quote_that_is_never_closed_does_not_take_the_file_into_memory() -> None:
    content = b'a,b\n1,"2\n' + (b"x" * 999 + b"\n") * (LONGEST_CELL // 100)
    tracemalloc.start()
    try:
        with pytest.raises(DelimitedError, match=r"line 2: not CSV.*is not closed"):
            list(table(content).rows())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < len(content) + 12 * LONGEST_CELL


def test_cells_of_many_characters_are_read_and_others_keep_their_limit() -> None:
    limit = csv.field_size_limit()
    text = "x" * (2 * limit)
    assert records(f"a,b\n1,{text}\n") == [{"a": "1", "b": text}]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("changed", [b"1\n2\n", b"1\n\n\n", b"\xff,2\n", b"\n", b'"1,2'])
def test_a_file_that_is_changed_meanwhile_is_told(changed: bytes) -> None:
    file = io.BytesIO(b"a,b\n1,2\n")
    found = Delimited(file, "labels.csv")
    (row,) = found.rows()
    file.seek(row.start)
    file.write(changed)
    file.truncate()
    with pytest.raises(DelimitedError, match="was changed while it was read"):
        found.cells_at(row.start, row.size)


CELL = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8) | st.sampled_from(
    ['"', ' "', '" ', ",", ";", " ", '", "', "x\ny", '"\n"']
)


@given(
    st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=5),
    st.sampled_from(SEPARATORS),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_what_a_csv_writer_writes_is_read_back(
    rows: list[list[str]], separator: str, end: str, quoted: bool
) -> None:
    buffer = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([["a", "b", "c"], *rows])
    written = [row for row in rows if any(cell.strip() for cell in row)]
    assert [list(row.values()) for row in records(buffer.getvalue())] == written


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        records(b"a,b\n" + content)
    except DelimitedError as error:
        assert str(error).startswith("labels.csv, line ")
