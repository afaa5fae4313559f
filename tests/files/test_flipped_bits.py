"""A flipped bit in what one stage hands to the next is found by a checksum, and its file named."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from compositional_prompts.enhancement.word_scorer import GroupScorer, WordScorer, load_word_scorer
from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.files.table_shards import open_table_shards
from compositional_prompts.files.tables import (
    IMAGE,
    SchemaError,
    iterate_table,
    photo_writer,
    read_table,
    required,
    write_table,
    write_tables,
)

SOURCES = Path(__file__).parents[2] / "src" / "compositional_prompts"
VECTORS = pa.schema([required("image_id", pa.string()), required("vector", pa.list_(pa.float32()))])
PHOTOS = pa.schema([required("image_id", pa.string()), pa.field("image", IMAGE)])
IDS = [f"{number}.jpg" for number in range(40)]
BYTES = random.Random(3)
VECTOR_ROWS = pa.table(
    [IDS, list(np.random.default_rng(3).random((len(IDS), 16), np.float32))], VECTORS
)
PHOTO_ROWS = pa.table(
    [IDS, [{"bytes": BYTES.randbytes(64), "path": None} for _ in IDS]], schema=PHOTOS
)


def whole(path: Path) -> None:
    write_table(VECTOR_ROWS, path, VECTORS)


def streamed(path: Path) -> None:
    write_tables([VECTOR_ROWS[:30], VECTOR_ROWS[30:]], path, VECTORS)


def photos(path: Path) -> None:
    with photo_writer(path, PHOTOS) as writer:
        writer.write_table(PHOTO_ROWS)


def shard(path: Path) -> None:
    with open_table_shards(path.with_suffix(""), 2**20) as shards:
        for batch in VECTOR_ROWS.to_batches():
            shards.write(batch, IDS, 80)
    (only,) = path.with_suffix("").iterdir()
    only.rename(path)


def flipped(content: bytes, start: int, stop: int, step: int) -> Iterator[bytes]:
    """The content with one bit changed, at some of its bytes."""
    bits = random.Random(5)
    for place in range(start, stop, step):
        harmed = bytearray(content)
        harmed[place] ^= 1 << bits.randrange(8)
        yield bytes(harmed)


def rows(path: Path, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(list(iterate_table(path, schema, 16)), schema)


@pytest.mark.parametrize("read", [read_table, rows])
@pytest.mark.parametrize("write", [whole, streamed, photos, shard])
def test_no_flipped_bit_of_a_table_is_read_as_another_value(
    write: Callable[[Path], None], read: Callable[[Path, pa.Schema], pa.Table], tmp_path: Path
) -> None:
    path = tmp_path / "table.parquet"
    write(path)
    schema = PHOTOS if write is photos else VECTORS
    sound = read(path, schema)
    assert sound.num_rows == len(IDS)
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    found = 0
    for harmed in flipped(content, 0, footer, 5):
        path.write_bytes(harmed)
        try:
            assert read(path, schema).equals(sound)  # as of a statistic that nobody reads
        except (DamagedOutputError, SchemaError) as error:
            assert str(path) in str(error)
            found += 1
    # What is stored takes most of the bytes.
    assert found > (footer - 4) / 5 * 0.8


def test_tables_are_written_with_checksums_everywhere() -> None:
    """The only writer of Parquet is the one that asks for them."""
    writers = re.compile(r"pq\.write_table|write_parquet|pq\.ParquetWriter\(")
    named = [
        path.relative_to(SOURCES)
        for path in SOURCES.rglob("*.py")
        if writers.search(path.read_text())
    ]
    assert named == [Path("files/tables.py")]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_no_flipped_bit_of_a_word_scorer_is_read_as_another_one(name: str, tmp_path: Path) -> None:
    vectors = np.random.default_rng(4).random((3, 8), np.float32)
    folder = tmp_path / "scorer"
    WordScorer({"color": GroupScorer(("red", "blue", "grün"), "cosine", vectors)}).save(folder)
    sound = load_word_scorer(folder).groups["color"]
    content = (folder / name).read_bytes()
    found = 0
    for harmed in flipped(content, 0, len(content), 1):
        (folder / name).write_bytes(harmed)
        try:
            read = load_word_scorer(folder).groups["color"]
        except DamagedOutputError as error:
            assert str(folder / name) in str(error)
            found += 1
        else:
            assert (read.words, read.method) == (sound.words, sound.method)
            assert np.array_equal(read.vectors, sound.vectors)
    assert found > 0.8 * len(content)
