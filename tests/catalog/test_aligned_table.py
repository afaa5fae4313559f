"""Tables of the same images, read side by side in any order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from compositional_prompts.catalog.aligned_table import AlignedTable
from compositional_prompts.catalog.image_join import ImageJoinError

NAMES = [f"shoe-{number}" for number in range(23)]


def batches(names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(names), size):
        part = names[start : start + size]
        yield pa.record_batch([part, [f"of {name}" for name in part]], ["image_id", "text"])


def aligned(names: Sequence[str], wanted: Sequence[str], size: int = 4) -> AlignedTable:
    return AlignedTable(
        lambda: batches(names, size), Path("table"), lambda: batches(wanted, 5), Path("prompts")
    )


def texts(names: Sequence[str], wanted: Sequence[str], block: int) -> list[str]:
    table = aligned(names, wanted)
    found = []
    for start in range(0, len(wanted), block):
        ids = pa.array(wanted[start : start + block])
        found += table.take(ids).column("text").to_pylist()
    table.check()
    return found


@pytest.mark.parametrize("block", [1, 4, 7, 23, 100])
@pytest.mark.parametrize("seed", range(4))
def test_rows_come_in_the_order_asked_for(seed: int, block: int) -> None:
    wanted, names = list(NAMES), list(NAMES)
    if seed:
        random.Random(seed).shuffle(wanted)
        random.Random(-seed).shuffle(names)
    assert texts(names, wanted, block) == [f"of {name}" for name in wanted]


def test_in_one_order_nothing_but_a_batch_waits() -> None:
    table = aligned(NAMES, NAMES)
    for start in range(0, len(NAMES), 5):
        table.take(pa.array(NAMES[start : start + 5]))
        assert table.waiting_rows < 4


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (NAMES[:-1], NAMES, "^table lacks 1 of the images of prompts, the first 'shoe-22'"),
        (NAMES[3:], NAMES, "^table lacks 3 of the images of prompts, the first 'shoe-0'"),
        (NAMES, NAMES[1:], "^prompts lacks 1 of the images of table, the first 'shoe-0'"),
        (NAMES, NAMES[:9], "^prompts lacks 14 of the images of table, the first 'shoe-9'"),
        ([*NAMES, "shoe-3"], NAMES, "^table has image 'shoe-3' in more than one row"),
        (["shoe-3", *NAMES], NAMES, "^table has image 'shoe-3' in more than one row"),
        (NAMES, [*NAMES, "shoe-3"], "^prompts has image 'shoe-3' in more than one row"),
        (NAMES, ["shoe-3", *NAMES], "^prompts has image 'shoe-3' in more than one row"),
        ([], NAMES, "^table lacks 23 of the images of prompts, the first 'shoe-0'"),
    ],
)
@pytest.mark.parametrize("block", [4, 100])
def test_other_images_are_named(
    block: int, names: list[str], wanted: list[str], message: str
) -> None:
    with pytest.raises(ImageJoinError, match=message):
        texts(names, wanted, block)
