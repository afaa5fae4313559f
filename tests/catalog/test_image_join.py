"""The join on image_id: rows in any order, over batches, and the tables named where they differ."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from compositional_prompts.catalog.image_join import (
    ImageJoin,
    ImageJoinError,
    image_rows,
    rows_of_images,
)
from compositional_prompts.files.outputs import MismatchedOutputsError

PROMPTS, CATALOG = Path("data/prompts.parquet"), Path("data/catalog")


def parts(*ids: str) -> list[pa.Array]:
    return [pa.array(list(some), pa.string()) for some in ids]


def test_rows_are_those_of_the_images_in_any_order_repeated_or_none() -> None:
    names = [f"i{n}" for n in range(1000)]
    rng = np.random.default_rng(1)
    ids = rng.permutation(names)
    wanted = rng.choice(names, 300)
    streamed = (pa.array(ids[start : start + 70].tolist()) for start in range(0, 1000, 70))
    rows = image_rows(wanted.tolist(), streamed, table=CATALOG)
    assert rows.dtype == np.int64
    assert ids[rows].tolist() == wanted.tolist()
    assert image_rows([], parts("ab", "", "c"), table=CATALOG).tolist() == []
    assert image_rows([], [], table=CATALOG).tolist() == []


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.string()])
def test_any_spelling_of_strings_is_joined(kind: pa.DataType) -> None:
    ids = pa.array(["a", "b", "c"]).cast(kind)
    wanted = pa.array(["c", "a"]).cast(kind)
    assert image_rows(wanted, [ids], table=CATALOG, exact=False).tolist() == [2, 0]


def test_batches_give_places_and_rows() -> None:
    join = ImageJoin(["c", "a", "x"], PROMPTS, CATALOG)
    found = [[array.tolist() for array in join.find(part)] for part in parts("ab", "zzy", "xc")]
    assert found == [[[1], [0]], [[], []], [[2, 0], [0, 1]]]
    assert join.found.all()
    join.check()


@pytest.mark.parametrize(
    ("wanted", "ids", "exact", "message"),
    [
        (
            "abc",
            parts("ab"),
            False,
            r"^data/catalog lacks 1 of the images of \S+prompts.parquet, .*'c'",
        ),
        ("xyz", parts("a", ""), True, r"^data/catalog lacks 3 of the images of \S+parquet, .*'x'"),
        (
            "ab",
            parts("zb", "acz"),
            True,
            r"^\S+prompts.parquet lacks 3 of the images of .*log, .*'z'",
        ),
        ("ab", parts("abb"), False, r"^data/catalog has image 'b' in more than one row"),
        ("ab", parts("b", "ab"), False, r"^data/catalog has image 'b' in more than one row"),
    ],
)
def test_both_tables_and_the_first_image_are_named(wanted, ids, exact, message) -> None:
    with pytest.raises(ImageJoinError, match=message) as raised:
        image_rows(list(wanted), ids, table=CATALOG, wanted_by=PROMPTS, exact=exact)
    assert isinstance(raised.value, MismatchedOutputsError)
    assert set(raised.value.paths) == {PROMPTS, CATALOG}


def test_what_no_table_names_is_called_what_was_asked_for() -> None:
    with pytest.raises(ImageJoinError, match=r"^data/catalog lacks 1 of the images asked for"):
        image_rows(["a"], [], table=CATALOG)


def test_an_image_may_not_be_wanted_twice_by_a_join_of_batches() -> None:
    with pytest.raises(ImageJoinError, match=r"^\S+prompts.parquet has image 'a' in more than one"):
        ImageJoin(["a", "b", "a"], PROMPTS, CATALOG)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_rows_of_a_streamed_table_come_in_the_order_wanted(size: int) -> None:
    names = [f"i{number}" for number in range(20)]
    table = pa.table({"image_id": names, "number": list(range(20))})
    wanted = ["i7", "i0", "i19", "i8"]
    found = rows_of_images(wanted, table.to_batches(size), table=Path("table"))
    assert found.to_pydict() == {"image_id": wanted, "number": [7, 0, 19, 8]}
    assert rows_of_images([], table.to_batches(size), table=Path("table")).num_rows == 0
    with pytest.raises(ImageJoinError, match=r"^table lacks 1 .* the first 'no'"):
        rows_of_images(["i1", "no"], table.to_batches(size), table=Path("table"))
    twice = pa.concat_tables([table, table.slice(3, 1)])
    with pytest.raises(ImageJoinError, match=r"^table has image 'i3' in more than one row"):
        rows_of_images(["i3"], twice.to_batches(size), table=Path("table"))
