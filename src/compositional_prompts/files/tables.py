"""Reading and writing tables so that they match their declared schema and appear whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from compositional_prompts.files.outputs import OutputError, atomic_file, require_outputs


def required(name: str, kind: pa.DataType) -> pa.Field:
    """A column that must be present and known in every row."""
    return pa.field(name, kind, nullable=False)


class SchemaError(OutputError, ValueError):
    """A table's columns are not the declared ones."""


def check_schema(found: pa.Schema, expected: pa.Schema, source: str | Path) -> None:
    """Raise :class:`SchemaError` naming the first column of ``found`` that is not as declared."""
    for field in expected:
        position = found.get_field_index(field.name)
        if position < 0:
            raise SchemaError(
                f"{source}: column {field.name!r} is missing; found {', '.join(found.names)}.",
                Path(source),
            )
        if found.field(position).type != field.type:
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


def check_no_nulls(table: pa.Table, schema: pa.Schema, source: str | Path) -> None:
    """Raise :class:`SchemaError` where a required column has a null, naming its first row."""
    for field in schema:
        if field.nullable or field.name not in table.column_names:
            continue
        column = table.column(field.name)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise SchemaError(
                f"{source}: column {field.name!r} is null in row {row}.", Path(source)
            )


def write_table(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write ``table`` as Parquet (zstd), checked against ``schema``, whole or not at all."""
    check_schema(table.schema, schema, path)
    check_no_nulls(table, schema, path)
    with atomic_file(path) as temporary:
        pq.write_table(
            table.select(schema.names).cast(schema),
            temporary,
            compression="zstd",
            use_content_defined_chunking=True,
        )


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file after checking its columns against ``schema``.

    Raises:
        MissingOutputError: the file is not there.
        SchemaError: a column is missing, unexpected or of another type.
    """
    require_outputs(path)
    check_schema(pq.read_schema(path), schema, path)
    return pq.read_table(path, columns=list(columns) if columns is not None else None)
