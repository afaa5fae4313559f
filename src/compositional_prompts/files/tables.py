"""Reading and writing tables so that they match their declared schema and appear whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from compositional_prompts.files.outputs import (
    DamagedOutputError,
    OutputError,
    atomic_file,
    reading,
    require_outputs,
)

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""One encoded image file and its name: the layout of the Hugging Face ``Image`` feature.

``datasets`` reads a column as images only where the field is the very one that it would write,
which may be null; :func:`check_no_nulls` refuses a row without bytes all the same."""

_MAGIC: Final = b"PAR1"

GROUP_ROWS: Final = 16_384
"""Rows that :func:`write_tables` gathers in memory before it writes them as a row group."""

# What Arrow's writers (Polars, pandas, DuckDB, datasets) use for one another.
_SPELLINGS: Final = (
    (types.is_string, types.is_large_string, types.is_string_view),
    (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary),
    (types.is_integer,),
    (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view),
    (types.is_fixed_size_list,),
)

_PARQUET: Final = "Parquet table"

Columns = TypeVar("Columns", pa.Table, pa.RecordBatch)


def required(name: str, kind: pa.DataType) -> pa.Field:
    """A column that must be present and known in every row."""
    return pa.field(name, kind, nullable=False)


def or_null(schema: pa.Schema, *names: str) -> pa.Schema:
    """The schema, but that columns of these names may be null."""
    return pa.schema(
        [field.with_nullable(True) if field.name in names else field for field in schema],
        schema.metadata,
    )


def with_image_feature(schema: pa.Schema) -> pa.Schema:
    """Mark the ``image`` column as a Hugging Face ``Image`` so that ``datasets`` decodes it."""
    features = {}
    for field in schema:
        if field.name == "image":
            features[field.name] = {"_type": "Image"}
        else:
            features[field.name] = {"dtype": str(field.type), "_type": "Value"}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


class SchemaError(OutputError, ValueError):
    """A table's columns are not the declared ones."""


def is_spelling(found: pa.DataType, declared: pa.DataType) -> bool:
    """Whether columns of type ``found`` hold what ``declared`` says, written in another way.

    With 64-bit offsets, as views, with a dictionary, in integers of another width, without a type
    where no row has a value, or as a struct that lacks fields.
    """
    if types.is_dictionary(found):
        found = found.value_type
    if found == declared or types.is_null(found):
        return True
    if types.is_struct(found) and types.is_struct(declared):
        return all(
            declared.get_field_index(field.name) >= 0
            and is_spelling(field.type, declared.field(field.name).type)
            for field in found
        )
    if _family(found) is None or _family(found) != _family(declared):
        return False
    if types.is_fixed_size_list(declared) and found.list_size != declared.list_size:
        return False
    values = getattr(declared, "value_type", None)
    return values is None or is_spelling(found.value_type, values)


def _family(kind: pa.DataType) -> int | None:
    names = (number for number, names in enumerate(_SPELLINGS) if any(name(kind) for name in names))
    return next(names, None)


def check_schema(found: pa.Schema, expected: pa.Schema, source: str | Path) -> None:
    """Raise :class:`SchemaError` naming the first column of ``found`` that is not as declared.

    Any order of the columns and any spelling of their types (:func:`is_spelling`) passes.
    """
    for field in expected:
        position = found.get_field_index(field.name)
        if position < 0:
            raise SchemaError(
                f"{source}: column {field.name!r} is missing; found {', '.join(found.names)}.",
                Path(source),
            )
        if not is_spelling(found.field(position).type, field.type):
            raise SchemaError(
                f"{source}: column {field.name!r} is {found.field(position).type}, "
                f"expected {field.type}.",
                Path(source),
            )
    extra = [name for name in found.names if expected.get_field_index(name) < 0]
    if extra:
        raise SchemaError(
            f"{source}: unexpected column {extra[0]!r}; expected {', '.join(expected.names)}.",
            Path(source),
        )


def check_no_nulls(data: Columns, schema: pa.Schema, source: str | Path, first: int = 0) -> None:
    """Raise :class:`SchemaError` where a required value or a photo is null, naming its first row.

    Args:
        data: the rows.
        schema: their declared columns, of which some may be absent.
        source: the file that they are of.
        first: the number of the first row in that file.
    """
    for field in schema:
        if field.name not in data.schema.names:
            continue
        column = data.column(field.name)
        if field.type == IMAGE and not types.is_null(column.type):
            column = pc.struct_field(column, "bytes")
        elif field.nullable and field.type != IMAGE:
            continue
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise SchemaError(
                f"{source}: column {field.name!r} is null in row {first + row}.", Path(source)
            )


def as_declared(data: Columns, schema: pa.Schema, source: str | Path, first: int = 0) -> Columns:
    """Rows of a file in the order and the types of ``schema``, whatever tool wrote them.

    Args:
        data: columns that :func:`check_schema` passes.
        schema: as the file is declared.
        source: its name, for messages.
        first: the number of the first row in it.

    Raises:
        SchemaError: a column is not as declared, a required value or a photo is null, or a number
            does not fit.
    """
    check_schema(data.schema, schema, source)
    check_no_nulls(data, schema, source, first)
    try:
        return data.select(schema.names).cast(schema)
    except pa.ArrowInvalid as error:
        raise SchemaError(f"{source}: {error}", Path(source)) from error


def parquet_writer(
    sink: Path | pa.NativeFile, schema: pa.Schema, **options: Any
) -> pq.ParquetWriter:
    """A writer of a table, with a checksum of every page; the caller closes it.

    What cannot be compressed is stored as it is, where a flipped bit is another value that nothing
    else would notice. :class:`NamedParquet` and :func:`read_columns` compare the checksums.

    Args:
        sink: what to write to.
        schema: of the table.
        options: others of Arrow's.
    """
    return pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True, **options)


def photo_writer(sink: Path | pa.NativeFile, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a table with photos (columns of type :data:`IMAGE`); the caller closes it.

    Dictionaries and statistics are for labels: of photos they would put whole ones into the footer.
    """
    labels = [field.name for field in schema if field.type != IMAGE]
    return parquet_writer(sink, schema, use_dictionary=labels, write_statistics=labels)


def write_table(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write ``table`` as Parquet (zstd), checked against ``schema``, whole or not at all."""
    declared = as_declared(table, schema, path)
    with (
        atomic_file(path) as temporary,
        parquet_writer(temporary, declared.schema, use_content_defined_chunking=True) as writer,
    ):
        writer.write_table(declared)


def write_tables(tables: Iterable[pa.Table], path: Path, schema: pa.Schema) -> int:
    """As :func:`write_table`, of tables that come one after the other.

    Memory holds :data:`GROUP_ROWS` rows.

    Returns:
        The number of rows.
    """
    total, waiting, rows = 0, [schema.empty_table()], 0
    with (
        atomic_file(path) as temporary,
        parquet_writer(temporary, schema, use_content_defined_chunking=True) as writer,
    ):
        for table in tables:
            waiting.append(as_declared(table, schema, path, total + rows))
            rows += table.num_rows
            if rows >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                total, waiting, rows = total + rows, [schema.empty_table()], 0
        if rows or not total:
            writer.write_table(pa.concat_tables(waiting))
    return total + rows


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file in the types of ``schema``, its columns checked against it.

    Raises:
        MissingOutputError, DamagedOutputError: the file is not there, or not to be read.
        SchemaError: a column is missing, unexpected or of another type, or lacks a value.
    """
    check_schema(parquet_schema(path), schema, path)
    read = _part(schema, columns)
    return as_declared(read_columns(path, read.names), read, path)


def is_absent(path: Path, column: str) -> bool:
    """Whether a column that is known in every row of a table, or in none, is known in none.

    The first row tells; a table without rows lacks nothing.

    Raises:
        MissingOutputError, DamagedOutputError: the table is not there, or not to be read.
        SchemaError: it has no such column.
    """
    require_outputs(path)
    with open_parquet(path) as file:
        if column not in file.schema_arrow.names:
            found = ", ".join(file.schema_arrow.names)
            raise SchemaError(f"{path}: column {column!r} is missing; found {found}.", path)
        first = next(file.iter_batches(1, columns=[column]), None)
    return first is not None and len(first) > 0 and not first.column(column)[0].is_valid


class NamedParquet(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file that is named where what it holds cannot be read."""

    def __init__(self, path: Path, **options: Any) -> None:
        """Open it.

        Raises:
            DamagedOutputError: it is none, or its footer is damaged.
        """
        self._path = path
        with reading(path, _PARQUET):
            with path.open("rb") as file:
                if file.read(len(_MAGIC)) != _MAGIC:  # Arrow looks at its end alone
                    raise ValueError(f"it does not begin with {_MAGIC!r}")
            super().__init__(path, **options)
            self.schema_arrow  # noqa: B018 - some damage is found when it is first made

    def iter_batches(
        self,
        batch_size: int,
        row_groups: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        **options: Any,
    ) -> Iterator[pa.RecordBatch]:
        """As Arrow's.

        Raises:
            DamagedOutputError: a page is damaged, or a column is not there. Where the header of a
                page is, Arrow takes the column to end before it; that is found after the last row.
        """
        rows = 0
        with reading(self._path, _PARQUET):
            for batch in super().iter_batches(batch_size, row_groups, columns, **options):
                rows += batch.num_rows
                yield batch
        self._require_rows(rows, row_groups)

    def read_row_group(self, group: int, *arguments: Any, **options: Any) -> pa.Table:
        """As Arrow's.

        Raises:
            DamagedOutputError: as :meth:`iter_batches`.
        """
        with reading(self._path, _PARQUET):
            table = super().read_row_group(group, *arguments, **options)
        self._require_rows(table.num_rows, [group])
        return table

    def _require_rows(self, found: int, row_groups: Sequence[int] | None) -> None:
        groups = range(self.num_row_groups) if row_groups is None else row_groups
        expected = sum(self.metadata.row_group(group).num_rows for group in groups)
        if found != expected:
            raise DamagedOutputError(
                f"{self._path} is damaged ({found} of its {expected} rows can be read).", self._path
            )


def open_parquet(path: Path, buffer_size: int = 0) -> NamedParquet:
    """A Parquet file to be streamed; the caller closes it.

    Arrow would by itself keep all that was read of a file until it is closed
    (``findings/arrow_keeps_what_was_read.sh``).

    Args:
        path: the file.
        buffer_size: bytes of a column that are read at a time; 0: a row group's at once.

    Raises:
        DamagedOutputError: as :class:`NamedParquet`.
    """
    return NamedParquet(
        path, buffer_size=buffer_size, pre_buffer=False, page_checksum_verification=True
    )


def parquet_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file.

    Raises:
        MissingOutputError, DamagedOutputError: it is not there, or not to be read.
    """
    require_outputs(path)
    with reading(path, _PARQUET):
        return pq.read_schema(path)


def count_table_rows(path: Path) -> int:
    """The rows of a Parquet file.

    Raises:
        MissingOutputError, DamagedOutputError: as :func:`parquet_schema`.
    """
    require_outputs(path)
    with reading(path, _PARQUET):
        return int(pq.read_metadata(path).num_rows)


def read_columns(path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """Columns of a Parquet file as they are, unchecked.

    Args:
        path: the file.
        columns: their names; default: all.
        filters: of Arrow: rows that do not pass are left out.

    Raises:
        MissingOutputError, DamagedOutputError: as :func:`parquet_schema`; or a column is missing.
    """
    require_outputs(path)
    with reading(path, _PARQUET):
        table = pq.read_table(
            path,
            columns=columns and list(columns),
            filters=filters,
            page_checksum_verification=True,
        )
        for name in columns or ():
            table.column(name)  # Arrow passes over those that are not there
        return table


def give_freed_memory_back() -> None:
    """Let Arrow take memory from the system's allocator from here on in this process.

    Its own keeps much of what large columns took, a third of the peak where they come and go.
    """
    pa.set_memory_pool(pa.system_memory_pool())


def shared_texts(column: pa.ChunkedArray) -> list[Any]:
    """The texts of a column, None where it has none; equal ones are one object, 8 bytes a row."""
    encoded = column.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    numbers = encoded.indices.fill_null(len(distinct)).to_pylist()
    return [*map([*distinct, None].__getitem__, numbers)]


def require_whole_table(path: Path, schema: pa.Schema) -> None:
    """Read a table through, for readers that do not compare the checksums of its pages.

    Raises:
        MissingOutputError, DamagedOutputError, SchemaError: as :func:`read_table`.
    """
    for _ in iterate_table(path, schema, GROUP_ROWS):
        pass


def iterate_table(
    path: Path, schema: pa.Schema, rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream what :func:`read_table` reads, at most ``rows`` rows at a time.

    Raises:
        MissingOutputError, DamagedOutputError, SchemaError: as :func:`read_table`.
    """
    require_outputs(path)
    read = _part(schema, columns)
    with open_parquet(path) as file:
        check_schema(file.schema_arrow, schema, path)
        first = 0
        for batch in file.iter_batches(rows, columns=read.names):
            yield as_declared(batch, read, path, first)
            first += batch.num_rows


def _part(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    return pa.schema([schema.field(name) for name in columns])
