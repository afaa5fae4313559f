"""A table in shards: its rows, and which files stay as rows come and go."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from compositional_prompts.files.outputs import DamagedOutputError, MissingOutputError
from compositional_prompts.files.table_shards import (
    iterate_shards,
    open_table_shards,
    shard_files,
)
from compositional_prompts.files.tables import SchemaError, required

WIDTH = 16
SCHEMA = pa.schema(
    [required("image_id", pa.string()), required("vector", pa.list_(pa.float32(), WIDTH))]
)
LARGEST = 16_384


def table(ids: Sequence[str]) -> pa.Table:
    """A vector an id, the same for the same id."""
    vectors = [np.random.default_rng(int(name)).random(WIDTH, np.float32).tolist() for name in ids]
    return pa.table([pa.array(ids, pa.string()), pa.array(vectors, SCHEMA[1].type)], schema=SCHEMA)


def write(directory: Path, ids: Sequence[str], rows_at_once: int = 100) -> dict[bytes, int]:
    """The files by what they hold, with their sizes."""
    with open_table_shards(directory, LARGEST) as shards:
        for batch in table(ids).to_batches(rows_at_once):
            shards.write(batch, batch.column("image_id").to_pylist(), 4 * WIDTH)
    return {file.read_bytes(): file.stat().st_size for file in directory.iterdir()}


def test_rows_come_back_in_order_and_files_are_the_same_however_they_were_written(
    tmp_path: Path,
) -> None:
    ids = [str(n) for n in range(2000)]
    files = write(tmp_path / "a", ids)
    assert len(files) > 20
    assert write(tmp_path / "b", ids, 7).keys() == write(tmp_path / "c", ids, 2000).keys()
    assert write(tmp_path / "b", ids, 7).keys() == files.keys()
    batches = list(iterate_shards(tmp_path / "a", SCHEMA, 30))
    assert pa.Table.from_batches(batches) == table(ids)
    assert max(batch.num_rows for batch in batches) == 30
    (only,) = {
        batch.schema.names[0] for batch in iterate_shards(tmp_path / "a", SCHEMA, 9, ["vector"])
    }
    assert only == "vector"


def test_rows_added_in_one_place_leave_nine_tenths_of_the_bytes(tmp_path: Path) -> None:
    ids = [str(n) for n in range(5000)]
    old = write(tmp_path / "old", ids)
    new = write(tmp_path / "new", [*ids[:1234], *(str(n) for n in range(9000, 9050)), *ids[1234:]])
    assert sum(new[file] for file in new.keys() & old.keys()) > 0.9 * sum(new.values())


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingOutputError, match="table is missing"):
        shard_files(tmp_path / "table")
    assert write(tmp_path / "table", []) == {}
    with pytest.raises(DamagedOutputError, match="table holds no Parquet shard"):
        list(iterate_shards(tmp_path / "table", SCHEMA, 10))
    write(tmp_path / "table", ["1"])
    with pytest.raises(SchemaError, match=r"part-00000\.parquet: unexpected column 'vector'"):
        list(iterate_shards(tmp_path / "table", SCHEMA.remove(1), 10))
