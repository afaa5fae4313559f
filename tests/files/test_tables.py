"""Tables are read in their declared types, whatever tool wrote them, and photos leave no trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compositional_prompts.files.tables import (
    IMAGE,
    SchemaError,
    as_declared,
    is_spelling,
    iterate_table,
    photo_writer,
    read_table,
    required,
    shared_texts,
    write_tables,
)

SCHEMA = pa.schema(
    [
        required("id", pa.string()),
        pa.field("image", IMAGE),
        required("count", pa.int64()),
        pa.field("label", pa.string()),
        pa.field("nothing", pa.string()),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("vector", pa.list_(pa.float32(), 2)),
    ]
)
TABLE = pa.Table.from_pylist(
    [
        {
            "id": f"i{n}",
            "image": {"bytes": b"photo %d" % n, "path": None},
            "count": n,
            "label": ("red", None, "blue")[n % 3],
            "nothing": None,
            "scores": [0.5] * n,
            "vector": [1.0, 0.0],
        }
        for n in range(10)
    ],
    SCHEMA,
)


def test_equal_texts_of_a_column_are_one_object() -> None:
    chunks = [["red boots", None, "blue boots"], [], ["blue boots", "red boots"]]
    texts = shared_texts(pa.chunked_array(chunks, pa.string()))
    assert texts == ["red boots", None, "blue boots", "blue boots", "red boots"]
    assert texts[0] is texts[4] and texts[2] is texts[3]
    assert shared_texts(pa.chunked_array([], pa.string())) == []


def test_arrow_may_take_its_memory_from_the_system() -> None:
    code = (
        "import pyarrow as pa; from compositional_prompts.files.tables import *; "
        "give_freed_memory_back(); print(pa.array([1]) and pa.default_memory_pool().backend_name)"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "system\n"


def struct(**fields: pa.DataType) -> pa.StructType:
    return pa.struct(list(fields.items()))


@pytest.mark.parametrize(
    ("declared", "spellings"),
    [
        (
            pa.string(),
            [
                pa.large_string(),
                pa.string_view(),
                pa.null(),
                pa.dictionary(pa.int8(), pa.string()),
                pa.dictionary(pa.uint32(), pa.large_string()),
            ],
        ),
        (pa.binary(), [pa.large_binary(), pa.binary_view(), pa.binary(16), pa.null()]),
        (pa.int64(), [pa.int8(), pa.uint16(), pa.uint64(), pa.null()]),
        (
            IMAGE,
            [
                struct(bytes=pa.large_binary(), path=pa.null()),
                struct(path=pa.string_view(), bytes=pa.binary_view()),
                struct(bytes=pa.binary()),
                pa.null(),
            ],
        ),
        (
            pa.list_(pa.string()),
            [pa.large_list(pa.large_string()), pa.list_view(pa.string()), pa.null()],
        ),
        (
            pa.list_(pa.float32(), 2),
            [pa.list_(pa.field("element", pa.float32(), nullable=False), 2)],
        ),
    ],
)
def test_spellings_of_one_type(declared: pa.DataType, spellings: list[pa.DataType]) -> None:
    assert is_spelling(declared, declared)
    for found in spellings:
        assert is_spelling(found, declared), found


@pytest.mark.parametrize(
    ("found", "declared"),
    [
        (pa.float64(), pa.string()),
        (pa.float64(), pa.int64()),
        (pa.float64(), pa.float32()),
        (pa.binary(), pa.string()),
        (pa.bool_(), pa.int64()),
        (pa.string(), IMAGE),
        (struct(bytes=pa.string()), IMAGE),
        (struct(bytes=pa.binary(), height=pa.int64()), IMAGE),
        (pa.list_(pa.float64()), pa.list_(pa.float32())),
        (pa.list_(pa.float32(), 3), pa.list_(pa.float32(), 2)),
        (pa.string(), pa.list_(pa.string())),
        (pa.dictionary(pa.int8(), pa.int64()), pa.string()),
    ],
)
def test_other_types_are_no_spelling(found: pa.DataType, declared: pa.DataType) -> None:
    assert not is_spelling(found, declared)


def by_polars(table: pa.Table, path: Path) -> None:
    frame = pl.DataFrame(table).with_columns(
        pl.col("label").cast(pl.Categorical), pl.lit(None).alias("nothing")
    )
    frame.write_parquet(path, row_group_size=4)


def by_polars_without_paths(table: pa.Table, path: Path) -> None:
    photos = pl.struct(pl.col("image").struct.field("bytes"))
    pl.DataFrame(table).with_columns(photos.alias("image")).write_parquet(path)


def by_pandas(table: pa.Table, path: Path) -> None:
    frame = table.drop_columns("vector").to_pandas()
    frame["label"] = frame["label"].astype("category")
    frame.to_parquet(path)
    # pandas knows no lists of one length.
    pq.write_table(pq.read_table(path).append_column("vector", table["vector"]), path)


@pytest.mark.parametrize("rewrite", [by_polars, by_polars_without_paths, by_pandas])
def test_a_table_that_another_tool_wrote_again_is_read_as_declared(
    tmp_path: Path, rewrite: Callable[[pa.Table, Path], None]
) -> None:
    path = tmp_path / "table.parquet"
    rewrite(TABLE, path)
    assert pq.read_schema(path).types != SCHEMA.types
    assert read_table(path, SCHEMA) == TABLE
    assert read_table(path, SCHEMA, ["label", "id"]) == TABLE.select(["label", "id"])
    batches = list(iterate_table(path, SCHEMA, 3))
    assert max(batch.num_rows for batch in batches) == 3
    assert pa.Table.from_batches(batches) == TABLE
    assert pa.Table.from_batches(iterate_table(path, SCHEMA, 3, ["id"])) == TABLE.select(["id"])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("id", pa.nulls(10), "column 'id' is null in row 0"),
        ("id", pa.array(["x"] * 8 + [None, "y"]), "column 'id' is null in row 8"),
        ("image", pa.nulls(10), "column 'image' is null in row 0"),
        ("image", pa.nulls(10, IMAGE), "column 'image' is null in row 0"),
        (
            "image",
            pa.array([{"bytes": b"x"}] * 7 + [{"bytes": None, "path": "x.jpg"}] * 3, IMAGE),
            "column 'image' is null in row 7",
        ),
        ("count", pa.array([2**64 - 1] * 10, pa.uint64()), "18446744073709551615"),
        ("label", pa.array([0.5] * 10), "column 'label' is double, expected string"),
    ],
)
def test_what_cannot_be_read_as_declared_names_file_column_and_row(
    tmp_path: Path, column: str, values: pa.Array, message: str
) -> None:
    path = tmp_path / "table.parquet"
    broken = TABLE.cast(pa.schema([field.with_nullable(True) for field in SCHEMA]))
    pq.write_table(broken.set_column(broken.column_names.index(column), column, values), path)
    with pytest.raises(SchemaError, match=rf"table\.parquet: .*{message}"):
        read_table(path, SCHEMA)
    with pytest.raises(SchemaError, match=rf"table\.parquet: .*{message}"):
        list(iterate_table(path, SCHEMA, 4))


def test_photos_have_no_statistics_and_no_dictionary(tmp_path: Path) -> None:
    schema = pa.schema([SCHEMA.field("id"), SCHEMA.field("image")])
    path = tmp_path / "table.parquet"
    photo = b"a whole photo" * 100
    rows = [{"id": f"i{n}", "image": {"bytes": photo, "path": "x.jpg"}} for n in range(50)]
    with photo_writer(path, schema) as writer:
        writer.write_table(as_declared(pa.Table.from_pylist(rows, schema), schema, path))
    group = pq.read_metadata(path).row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(3)}
    assert columns["id"].is_stats_set
    for name in ("image.bytes", "image.path"):
        assert not columns[name].is_stats_set
        assert not columns[name].has_dictionary_page
    footer = pq.read_metadata(path).serialized_size
    assert footer < len(photo) * 2
    assert photo not in path.read_bytes()[-footer - 8 :]


@pytest.mark.parametrize("rows", [1, 100, 5000])
def test_what_was_streamed_does_not_stay_in_memory(rows: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).random(2**20)
    schema = pa.schema([required("x", pa.float64())])
    groups = (pa.table([part], schema=schema) for part in np.split(numbers, 64))
    written = write_tables(groups, tmp_path / "numbers.parquet", schema)
    assert written == len(numbers)
    before = pa.total_allocated_bytes()
    for batch in iterate_table(tmp_path / "numbers.parquet", schema, rows * 100):
        assert batch.num_rows <= rows * 100
    assert pa.total_allocated_bytes() - before < numbers.nbytes / 2
    assert pq.read_metadata(tmp_path / "numbers.parquet").num_row_groups == 64


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_tables_that_come_one_by_one_are_written_as_one(rows: int, tmp_path: Path) -> None:
    parts = [TABLE.slice(start, 3) for start in range(0, rows, 3)]
    parts = [part.slice(0, rows - 3 * place) for place, part in enumerate(parts)]
    assert write_tables(iter(parts), tmp_path / "parts.parquet", SCHEMA) == rows
    assert read_table(tmp_path / "parts.parquet", SCHEMA).equals(TABLE.slice(0, rows))
