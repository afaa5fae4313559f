"""Cuts of a stream of rows: their sizes, and how far a change of the rows reaches."""

from collections.abc import Sequence

import numpy as np
import pytest

from compositional_prompts.files.content_cuts import ContentCuts

LARGEST = 4096

Row = tuple[bytes, int]


def rows_of(count: int, seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [(rng.bytes(16), int(rng.integers(10, 50))) for _ in range(count)]


def parts(rows: Sequence[Row], largest: int = LARGEST) -> list[tuple[Row, ...]]:
    cuts = ContentCuts(largest)
    found: list[list[Row]] = []
    for row in rows:
        if cuts.starts(*row):
            found.append([])
        found[-1].append(row)
    return [tuple(part) for part in found]


def sizes(found: Sequence[tuple[Row, ...]]) -> list[int]:
    return [sum(size for _, size in part) for part in found]


def test_parts_keep_to_their_sizes() -> None:
    rows = rows_of(40_000, 0)
    found = parts(rows)
    assert [row for part in found for row in part] == rows
    whole = sizes(found[:-1])
    assert min(whole) >= LARGEST / 8
    assert max(whole) <= LARGEST
    # About 1,170 parts with a standard deviation of an eighth: four standard errors of the mean.
    assert np.mean(whole) == pytest.approx(LARGEST / 4, rel=0.06)
    assert parts(rows) == found


@pytest.mark.parametrize("seed", range(5))
def test_rows_added_or_removed_in_one_place_leave_the_other_parts(seed: int) -> None:
    rows = rows_of(20_000, seed)
    place = int(np.random.default_rng(seed + 100).integers(0, len(rows) * 99 // 100))
    added = [*rows[:place], *rows_of(200, seed + 1000), *rows[place:]]
    removed = [*rows[:place], *rows[place + 200 :]]
    old = set(parts(rows))
    for changed in (added, removed):
        new = parts(changed)
        kept = sum(sizes([part for part in new if part in old]))
        assert kept > 0.95 * sum(sizes(new))


def test_rows_alike_are_cut_at_the_largest_size_and_cuts_find_back_behind_them() -> None:
    rows = rows_of(5_000, 7)
    never = next(key for key, _ in rows_of(1000, 8) if len(parts([(key, 40)] * 102)) == 1)
    found = parts([*rows, *[(never, 40)] * 2_000, *rows])
    assert max(sizes(found)) <= LARGEST
    assert len({*parts(rows), *found}) < len(parts(rows)) + len(found) - 100


def test_a_row_larger_than_a_part_is_a_part() -> None:
    rows = [(b"a", 10), (b"b", 5000), (b"c", 10), (b"d", 0)]
    assert parts(rows) == [(rows[0],), (rows[1],), (rows[2], rows[3])]


def test_no_rows_and_no_room() -> None:
    assert parts([]) == []
    assert parts([(b"a", 3), (b"b", 3)], largest=1) == [((b"a", 3),), ((b"b", 3),)]
    with pytest.raises(ValueError, match="must be positive, found 0"):
        ContentCuts(0)
