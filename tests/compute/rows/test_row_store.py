"""Rows on disk: kept whatever happens to the process, shared, bounded, and never used damaged."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed_runs import killed_at_random, script_environment
from numpy.typing import NDArray

from compositional_prompts.compute.rows import row_segments, row_store, stored_rows
from compositional_prompts.compute.rows.computation import KEY
from compositional_prompts.compute.rows.key_index import KeyIndex, first_occurrences
from compositional_prompts.compute.rows.row_store import (
    MissingRowError,
    RowStore,
    RowStoreError,
    StoredRows,
)

ROW = np.dtype([("vector", "<f4", (5,)), ("number", "<i8"), ("flag", "?")])
GIB = 2**30


def made_rows(seed: int, count: int) -> tuple[NDArray[np.void], NDArray[Any]]:
    """Random keys and rows."""
    generator = np.random.default_rng(seed)
    keys = np.frombuffer(generator.bytes(16 * count), KEY)
    rows = np.zeros(count, ROW)
    rows["vector"] = generator.normal(size=(count, 5))
    rows["number"] = generator.integers(2**60, size=count)
    rows["flag"] = generator.integers(2, size=count)
    return keys, rows


def opened(path: Path, name: str = "squares", max_gib: float = 1) -> StoredRows:
    return RowStore(path, max_gib).open(name, "0f", {"settings": {"power": 2}})


def segments(path: Path, name: str = "squares") -> list[Path]:
    return sorted((path / name / "0f").glob("*.rows"))


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows"


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING):
        yield caplog


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_rows_come_back_in_any_order(count: int, path: Path) -> None:
    keys, rows = made_rows(count, count)
    generator = np.random.default_rng()
    with opened(path) as stored:
        assert stored.dtype is None
        assert stored.missing(keys).tolist() == list(range(count))
        order = generator.permutation(count)
        for some in np.array_split(order, 7):
            stored.append(keys[some], rows[some])
        assert stored.missing(keys).tolist() == []
        assert same(stored.read(keys), rows)
    with opened(path) as stored:
        assert stored.dtype == ROW
        asked = generator.integers(count, size=3 * count)
        assert same(stored.read(keys[asked]), rows[asked])
        assert same(stored.read(keys), rows)
        assert same(stored.read(keys[:0]), rows[:0])
    assert len(segments(path)) == 1


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="tells of maps on Linux alone")
def test_rows_that_were_read_in_order_are_not_memory_of_the_process(path: Path) -> None:
    def resident(segment: Path) -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        starts = [number for number, line in enumerate(lines) if line.endswith(str(segment))]
        return sum(
            int(line.split()[1])
            for start in starts
            for line in lines[start : start + 6]
            if line.startswith("Rss:")
        )

    keys, rows = made_rows(3, 40_000)
    with opened(path) as stored:
        stored.append(keys, rows)
        stored.flush()
    with opened(path) as stored:
        (segment,) = segments(path)
        for start in range(0, len(keys), 4096):
            some = slice(start, start + 4096)
            assert same(stored.read(keys[some]), rows[some])
        assert str(segment) in Path("/proc/self/maps").read_text()
        assert resident(segment) == 0
        # At random they stay: a page has many rows.
        chosen = np.random.default_rng(1).permutation(len(keys))
        assert same(stored.read(keys[chosen]), rows[chosen])
        assert resident(segment) > 0


def test_missing_are_first_occurrences(path: Path) -> None:
    keys, rows = made_rows(3, 4)
    asked = keys[[2, 0, 2, 3, 0, 1]]
    with opened(path) as stored:
        assert stored.missing(asked).tolist() == [0, 1, 3, 5]
        stored.append(keys[[3, 0]], rows[[3, 0]])
        assert stored.missing(asked).tolist() == [0, 5]
        assert stored.missing(asked[:0]).tolist() == []
        stored.append(keys[:0], rows[:0])


def test_a_row_that_is_not_there_is_named_with_the_remedy(path: Path) -> None:
    keys, rows = made_rows(4, 3)
    with opened(path) as stored:
        stored.append(keys[:1], rows[:1])
        with pytest.raises(MissingRowError, match=f"2 of 3 rows .*{bytes(keys[1]).hex()}: run the"):
            stored.read(keys)


def test_rows_of_another_kind_are_refused(path: Path) -> None:
    keys, rows = made_rows(5, 3)
    with opened(path) as stored:
        stored.append(keys, rows)
        with pytest.raises(ValueError, match="was given float32"):
            stored.append(keys, np.zeros(3, np.float32))
        with pytest.raises(ValueError, match="fixed number of bytes"):
            stored.append(keys, np.zeros(3, object))
        with pytest.raises(ValueError, match=r"\(3,\) keys and \(2,\) rows"):
            stored.append(keys, rows[:2])
        with pytest.raises(ValueError, match="keys must be"):
            stored.missing(np.zeros(3, "S16"))
    with opened(path) as stored, pytest.raises(ValueError, match="was given float32"):
        stored.append(keys, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="no plain name"):
        RowStore(path, 1).open("../squares", "0f", {})


@pytest.mark.parametrize("kind", ["<f2", "V7", [("a", "<f8"), ("b", [("c", "u1", (2, 3))])]])
def test_any_fixed_width_is_kept(kind: Any, path: Path) -> None:
    keys, _ = made_rows(6, 9)
    rows = np.frombuffer(np.random.default_rng().bytes(9 * np.dtype(kind).itemsize), kind)
    with opened(path) as stored:
        stored.append(keys, rows)
    with opened(path) as stored:
        assert same(stored.read(keys[::-1]), rows[::-1].copy())


def test_an_index_tells_apart_keys_that_begin_alike() -> None:
    keys = np.array([b"a" * 8 + bytes([n]) * 8 for n in (3, 1, 2, 1, 0)], KEY)
    index = KeyIndex()
    index.add(keys[:4], np.arange(4))
    assert index.find(keys).tolist() == [0, 1, 2, 1, -1]
    index.add(keys[3:], np.array([7, 8]))
    assert index.find(keys).tolist() == [0, 1, 2, 1, 8]
    assert first_occurrences(keys).tolist() == [0, 1, 2, 4]
    assert sorted(index.places().tolist())[-1] == 8


def test_an_index_finds_what_a_dictionary_finds() -> None:
    generator = np.random.default_rng()
    numbers = generator.integers(500, size=2000)
    keys = np.array([int(n).to_bytes(16, "big") for n in numbers], KEY)
    index, expected = KeyIndex(), {}
    for first in range(0, 1000, 90):
        index.add(keys[first : first + 90], np.arange(first, min(first + 90, 2000)))
        for place in range(first, first + 90):
            expected.setdefault(numbers[place], place)
    assert index.find(keys).tolist() == [expected.get(n, -1) for n in numbers]


def test_rows_are_confirmed_without_being_flushed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_rows, "CONFIRM_SECONDS", 0.01)
    keys, rows = made_rows(8, 2)
    with opened(path) as stored:
        stored.append(keys, rows)
        while not segments(path) or segments(path)[0].stat().st_size < 2 * ROW.itemsize:
            time.sleep(0.005)
        with opened(path) as other:
            assert same(other.read(keys), rows)


def test_a_full_segment_is_followed_by_another(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(stored_rows, "SEGMENT_BYTES", 4000)
    monkeypatch.setattr(stored_rows, "BLOCK_BYTES", 1000)
    keys, rows = made_rows(9, 500)
    with opened(path) as stored:
        for first in range(0, 500, 50):
            stored.append(keys[first : first + 50], rows[first : first + 50])
        assert len(segments(path)) > 3
        assert same(stored.read(keys), rows)
        order = np.random.default_rng().permutation(500)
        assert same(stored.read(keys[order]), rows[order])
    monkeypatch.setattr(row_segments, "MAPPED_FILES", 2)
    with opened(path) as stored:
        assert same(stored.read(keys[order]), rows[order])


def test_two_writers_at_once(path: Path) -> None:
    keys, rows = made_rows(10, 30)
    with opened(path) as one, opened(path) as two:
        one.append(keys[:20], rows[:20])
        one.flush()
        two.append(keys[10:], rows[10:])
        two.flush()
        assert two.missing(keys).tolist() == list(range(10))
        with opened(path) as three:  # sees what both have confirmed
            assert same(three.read(keys), rows)
        one.append(keys[20:], rows[20:])
        assert same(one.read(keys), rows)
    assert len(segments(path)) == 2
    with opened(path) as stored:
        assert same(stored.read(keys), rows)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from compositional_prompts.compute.rows.row_store import RowStore
path, seed = Path(sys.argv[1]), int(sys.argv[2])
generator = np.random.default_rng(seed)
keys = np.frombuffer(generator.bytes(16 * 300), "V16")
rows = generator.integers(2**60, size=300)
with RowStore(path, 1).open("squares", "0f", {}) as stored:
    for first in range(0, 300, 10):
        stored.append(keys[first : first + 10], rows[first : first + 10])
        stored.flush()
    assert not len(stored.missing(keys))
"""


def test_processes_that_write_one_computation_keep_all(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [
        subprocess.Popen([*command, str(seed)], env=script_environment()) for seed in (1, 1, 2)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with opened(path) as stored:
        for seed in (1, 2):
            generator = np.random.default_rng(seed)
            keys = np.frombuffer(generator.bytes(16 * 300), KEY)
            assert same(stored.read(keys), generator.integers(2**60, size=300))


def test_a_kill_loses_nothing_that_was_confirmed(path: Path, tmp_path: Path) -> None:
    keys, rows = made_rows(11, 4000)
    told = tmp_path / "confirmed"

    def run(step: Any) -> None:
        with opened(path) as stored:
            missing = stored.missing(keys)
            for first in range(0, len(missing), 40):
                some = missing[first : first + 40]
                stored.append(keys[some], rows[some])
                stored.flush()
                told.write_text(str(len(keys) - len(missing) + first + len(some)))
                step()
        with opened(path) as stored:
            assert same(stored.read(keys), rows)

    seen = []

    def watched(step: Any) -> None:
        confirmed = int(told.read_text() or 0) if told.exists() else 0
        with opened(path) as stored:
            seen.append(len(keys) - len(stored.missing(keys)) >= confirmed)
            assert seen[-1]
        run(step)

    kills = killed_at_random(watched, (15, 60), seed=1)
    assert kills >= 2
    with opened(path) as stored:
        assert same(stored.read(keys), rows)


def cut(segment: Path, to: int) -> None:
    with segment.open("r+b") as file:
        file.truncate(to)


def test_an_unfinished_block_is_cut_off(path: Path, warned: pytest.LogCaptureFixture) -> None:
    keys, rows = made_rows(12, 20)
    with opened(path) as stored:
        for half in (slice(10), slice(10, 20)):
            stored.append(keys[half], rows[half])
            stored.flush()
    (segment,) = segments(path)
    size = segment.stat().st_size
    for end in range(size - 1, size - 10 * (16 + ROW.itemsize) - 64, -97):
        cut(segment, end)
        with opened(path) as stored:
            assert stored.missing(keys).tolist() == list(range(10, 20))
            assert f"{segment} ends in an unfinished block" in warned.text
            warned.clear()
            with opened(path):  # it is gone
                assert not warned.text
            stored.append(keys[10:], rows[10:])
            assert same(stored.read(keys), rows)
        assert segment.stat().st_size == size


def test_a_block_under_way_is_left_to_its_writer(
    path: Path, warned: pytest.LogCaptureFixture
) -> None:
    keys, rows = made_rows(13, 20)
    with opened(path) as stored:
        stored.append(keys[:10], rows[:10])
        stored.flush()
        (segment,) = segments(path)
        size = segment.stat().st_size
        begin = size - 10 * (16 + ROW.itemsize) - 64
        with segment.open("ab") as file:
            file.write(segment.read_bytes()[begin:-1])
        with opened(path) as other:
            assert other.missing(keys).tolist() == list(range(10, 20))
        assert segment.stat().st_size == 2 * size - begin - 1
        assert not warned.text


@pytest.mark.parametrize("byte", [3, 30, "head", "keys", "rows", "last"])
def test_damage_is_named_set_aside_and_mended(
    byte: int | str, path: Path, warned: pytest.LogCaptureFixture
) -> None:
    keys, rows = made_rows(14, 30)
    ends = []
    with opened(path) as stored:
        for third in range(0, 30, 10):
            stored.append(keys[third : third + 10], rows[third : third + 10])
            stored.flush()
            ends.append(segments(path)[0].stat().st_size)
    (segment,) = segments(path)
    begins = {"head": ends[0] + 9, "keys": ends[0] + 70, "rows": ends[1] - 1, "last": ends[1] + 5}
    data = bytearray(segment.read_bytes())
    data[byte if isinstance(byte, int) else begins[byte]] ^= 4
    segment.write_bytes(data)
    lost = list(range(30)) if isinstance(byte, int) else list(range(10, 20))
    if byte == "last":
        lost = list(range(20, 30))
    with opened(path) as stored:
        assert stored.missing(keys).tolist() == lost
        assert str(segment) in warned.text
        sound = [place for place in range(30) if place not in lost]
        assert stored.read(keys[sound]).tobytes() == rows[sound].tobytes()
        with pytest.raises(MissingRowError):
            stored.read(keys)
        assert stored.check() == [segment]
        warned.clear()
        stored.append(keys[lost], rows[lost])
        assert same(stored.read(keys), rows)
    with opened(path) as stored:  # named once
        assert stored.missing(keys).tolist() == []
        assert stored.check() == []
        assert same(stored.read(keys), rows)
    assert not warned.text


def test_damage_that_is_met_while_reading_is_not_read(path: Path) -> None:
    keys, rows = made_rows(15, 30)
    with opened(path) as stored:
        stored.append(keys, rows)
    (segment,) = segments(path)
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    with opened(path) as stored, pytest.raises(MissingRowError):
        stored.read(keys[:1])


def test_a_file_that_is_cut_while_it_is_open_does_not_kill(path: Path) -> None:
    keys, rows = made_rows(16, 30)
    with opened(path) as stored:
        stored.append(keys, rows)
    with opened(path) as stored:
        stored.read(keys)
        cut(segments(path)[0], 600)
        with pytest.raises(MissingRowError):
            stored.read(keys)
        assert len(stored.missing(keys)) == 30


def test_a_full_disk_is_named_and_costs_what_was_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, rows = made_rows(17, 30)
    written: list[int] = []
    pwrite = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        if len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(offset)
        return pwrite(descriptor, bytes(data)[:40], offset)

    with opened(path) as stored:
        stored.append(keys[:10], rows[:10])
        stored.flush()
        (segment,) = segments(path)
        size = segment.stat().st_size
        monkeypatch.setattr(os, "pwrite", full)
        stored.append(keys[10:], rows[10:])
        with pytest.raises(RowStoreError, match=rf"{path}.*No space left.*base\.rows\.path"):
            stored.flush()
        monkeypatch.undo()
        assert segment.stat().st_size == size
        stored.append(keys[20:], rows[20:])
        assert stored.missing(keys).tolist() == list(range(10, 20))


def test_what_a_timer_cannot_write_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_rows, "CONFIRM_SECONDS", 0.01)
    keys, rows = made_rows(18, 2)
    stored = opened(path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    stored.append(keys, rows)
    while stored._failure is None:
        time.sleep(0.005)
    with pytest.raises(RowStoreError, match="No space left"):
        stored.append(keys, rows)
    stored.close()
    stored.close()


def test_what_is_no_store_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(RowStoreError, match=rf"{file}.*base\.rows\.path"):
            RowStore(path, 1)
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "one.jpg").write_bytes(b"")
    with pytest.raises(RowStoreError, match=r"it has one.jpg.*base\.rows\.path"):
        RowStore(foreign, 1)
    assert [path.name for path in foreign.iterdir()] == ["one.jpg"]


@pytest.mark.parametrize("said", ['{"layout": 2}', "{}", "]"])
def test_a_store_of_another_version_is_refused(said: str, path: Path) -> None:
    path.mkdir()
    (path / row_store.MARKER).write_text(said)
    with pytest.raises(RowStoreError, match=r"layout 2.*base\.rows\.path|damaged: remove"):
        RowStore(path, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_without_rights_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RowStoreError, match=r"Permission denied.*base\.rows\.path"):
        RowStore(tmp_path / "rows", 1)


def test_a_file_of_rows_that_cannot_be_read_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, rows = made_rows(36, 5)
    with opened(path) as stored:
        stored.append(keys, rows)
    (segment,) = segments(path)

    def closed(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(segment))

    with opened(path) as stored:
        monkeypatch.setattr(row_segments.MappedFiles, "map", closed)
        for ask in (stored.missing, stored.read):
            with pytest.raises(RowStoreError, match=rf"{segment}: Permission denied; .* allow"):
                ask(keys)


def test_a_store_that_is_only_read_gives_what_it_has(
    path: Path, monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    keys, rows = made_rows(19, 30)
    with opened(path) as stored:
        stored.append(keys[:20], rows[:20])
        stored.flush()
        stored.append(keys[20:], rows[20:])
    (segment,) = segments(path)
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    real = os.open

    def read_only(name: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(name))
        return real(name, flags, *more, **named)

    def refused(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(os, "pwrite", refused)
    with opened(path) as stored:
        assert stored.missing(keys).tolist() == list(range(20, 30))
        assert same(stored.read(keys[:20]), rows[:20])
        stored.append(keys, rows)
        with pytest.raises(RowStoreError, match=r"Read-only file system.*base\.rows\.path"):
            stored.flush()
    assert "rows from byte" in warned.text


def used_at(path: Path, name: str, seconds: float) -> None:
    os.utime(path / name / "0f" / row_store.DESCRIPTION, (seconds, seconds))


@pytest.mark.parametrize("gone", ["cubes", "cubes/0f"])
def test_rows_that_another_process_removes_stop_nobody(
    gone: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder goes after it was seen and before it is looked into."""
    keys, rows = made_rows(38, 5)

    def going(look: Any) -> Any:
        def look_too_late(folder: Any = ".") -> Any:
            if Path(folder) == path / gone and Path(folder).exists():
                Path(folder).rename(path.with_name("gone"))
            return look(folder)

        return look_too_late

    for name in ("squares", "cubes"):
        with opened(path, name) as stored:
            stored.append(keys, rows)
    monkeypatch.setattr(os, "scandir", going(os.scandir))
    monkeypatch.setattr(os, "listdir", going(os.listdir))
    with opened(path) as stored:
        assert same(stored.read(keys), rows)
    assert [found.name for found in RowStore(path, 1).computations()] == ["squares"]


def test_rows_without_their_lock_go_too(path: Path) -> None:
    keys, rows = made_rows(37, 5)
    with opened(path) as stored:
        stored.append(keys, rows)
    (path / "squares" / "0f" / row_store.IN_USE).unlink()  # copied without empty files
    assert [gone.name for gone in RowStore(path, 1).prune(0)] == ["squares"]
    assert RowStore(path, 1).computations() == []


def test_what_was_not_used_for_longest_goes(path: Path, warned: pytest.LogCaptureFixture) -> None:
    keys, rows = made_rows(20, 1000)
    for age, name in enumerate(["new", "middle", "old"]):
        with opened(path, name) as stored:
            stored.append(keys, rows)
        used_at(path, name, time.time() - 1000 * (age + 1))
    store = RowStore(path, 1)
    assert [found.name for found in store.computations()] == ["new", "middle", "old"]
    one = store.computations()[0].bytes
    assert one == sum(file.stat().st_size for file in (path / "new" / "0f").iterdir())
    with opened(path, "old") as held:  # in use: another has to go
        used_at(path, "old", 1)
        with opened(path, "fourth", max_gib=2.5 * one / GIB) as stored:
            assert sorted(found.name for found in store.computations()) == ["fourth", "new", "old"]
            stored.append(keys, rows)
        assert same(held.read(keys), rows)
    assert not warned.text
    with opened(path, "fourth", max_gib=0.5 * one / GIB) as stored:
        assert [found.name for found in store.computations()] == ["fourth"]
        assert "more than base.rows.max_gib" in warned.text
        assert same(stored.read(keys), rows)
    assert sorted(child.name for child in path.iterdir()) == ["fourth", row_store.MARKER]
    assert [gone.name for gone in store.prune(0)] == ["fourth"]
    assert store.computations() == []


def test_a_description_says_what_decides_the_rows(path: Path) -> None:
    with opened(path):
        pass
    (found,) = RowStore(path, 1).computations()
    assert found.description == {"settings": {"power": 2}}
    assert (found.name, found.fingerprint) == ("squares", "0f")
    assert time.time() - found.used < 3600
    (found.folder / row_store.DESCRIPTION).write_text("{")
    (found,) = RowStore(path, 1).computations()
    assert found.description == {}


HEAD = b"head of another format"


def output(path: Path, rows: NDArray[Any]) -> Path:
    """A file with rows after some other bytes, made anew."""
    path.unlink(missing_ok=True)
    path.write_bytes(HEAD + rows.tobytes() + b"tail")
    return path


def adopted(path: Path) -> list[Path]:
    return sorted((path / "squares" / "0f").glob("*.adopted"))


def test_an_output_takes_the_place_of_own_rows(path: Path, tmp_path: Path) -> None:
    keys, rows = made_rows(21, 50)
    order = np.random.default_rng().permutation(50)
    file = output(tmp_path / "output", rows[order])
    with opened(path) as stored:
        stored.append(keys, rows)
        assert stored.file_of(keys[order]) is None
        stored.adopt(file, keys[order], ROW, len(HEAD))
        assert segments(path) == []
        (link,) = adopted(path)
        assert link.samefile(file)
        assert stored.file_of(keys[order]) == link
        assert stored.file_of(keys) is None
        assert same(stored.read(keys), rows)
        stored.adopt(file, keys[order], ROW, len(HEAD))  # known already
        assert adopted(path) == [link]
        more, others = made_rows(22, 5)
        stored.append(more, others)
        assert same(stored.read(more), others)
    file.unlink()
    with opened(path) as stored:
        assert stored.missing(np.concatenate([keys, more])).tolist() == []
        assert same(stored.read(keys), rows)
        assert stored.file_of(keys[order]) == link
        grown = np.concatenate([keys[:20], more, keys[20:]])
        file = output(tmp_path / "output", stored.read(grown))
        stored.adopt(file, grown, ROW, len(HEAD))  # covers both
        assert len(adopted(path)) == 1 and segments(path) == []
        assert stored.file_of(grown) is not None
        assert same(stored.read(keys), rows)


def test_outputs_that_are_new_and_hold_equal_photos_are_adopted(path: Path, tmp_path: Path) -> None:
    keys, rows = made_rows(23, 4)
    twice = np.array([0, 1, 1, 2, 0, 3])
    with opened(path) as stored:
        stored.adopt(output(tmp_path / "output", rows[twice]), keys[twice], ROW, len(HEAD))
        assert stored.missing(keys).tolist() == []
        assert same(stored.read(keys[twice]), rows[twice])
        assert stored.file_of(keys[twice]) is not None
        stored.adopt(tmp_path / "output", keys[:0], ROW, 0)
        assert stored.file_of(keys[:0]) is None


def test_an_output_that_is_not_what_is_stored_is_refused(path: Path, tmp_path: Path) -> None:
    keys, rows = made_rows(24, 50)
    file = output(tmp_path / "output", rows)
    with opened(path) as stored:
        stored.append(keys, rows)
        for wrong in (keys[::-1].copy(), np.roll(keys, 1)):
            with pytest.raises(ValueError, match="not those"):
                stored.adopt(file, wrong, ROW, len(HEAD))
        with pytest.raises(ValueError, match="rows end at"):
            stored.adopt(file, keys, ROW, len(HEAD) + 5)
        with pytest.raises(ValueError, match="was given uint8"):
            stored.adopt(file, keys, np.dtype(np.uint8), 0)
        assert adopted(path) == []
        assert same(stored.read(keys), rows)


@pytest.mark.parametrize("byte", [1, len(HEAD) + 7, -1, None])
def test_an_output_that_is_changed_is_found(
    byte: int | None, path: Path, tmp_path: Path, warned: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr(row_segments, "BLOCK_BYTES", 10 * ROW.itemsize)
    keys, rows = made_rows(25, 50)
    file = output(tmp_path / "output", rows)
    with opened(path) as stored:
        stored.adopt(file, keys, ROW, len(HEAD))
    data = bytearray(file.read_bytes())
    if byte is None:
        cut(file, 700)
        lost = list(range(50))
    else:
        data[byte] ^= 1
        with file.open("r+b") as opened_file:  # in place: the link in the store changes too
            opened_file.write(data)
        lost = list(range(10)) if byte == len(HEAD) + 7 else []
    with opened(path) as stored:
        assert stored.missing(keys).tolist() == lost
        assert stored.file_of(keys) is None
        damaged = stored.check()
        assert len(damaged) == 1 and str(damaged[0]) in warned.text
        stored.append(keys[lost], rows[lost])
        assert same(stored.read(keys), rows)
    with opened(path) as stored:
        assert stored.missing(keys).tolist() == []
        again = output(tmp_path / "again", rows)
        stored.adopt(again, keys, ROW, len(HEAD))
        assert stored.file_of(keys) is not None
        assert len(adopted(path)) == 1 and segments(path) == []


def test_an_output_that_was_copied_meanwhile_is_shared_again(path: Path, tmp_path: Path) -> None:
    keys, rows = made_rows(29, 50)
    file = output(tmp_path / "output", rows)
    with opened(path) as stored:
        stored.adopt(file, keys, ROW, len(HEAD))

    def copy_as_dvc_does(data: bytes) -> None:
        (tmp_path / "copy").write_bytes(data)
        (tmp_path / "copy").replace(file)

    data = file.read_bytes()
    for wrong in (data[:-1], data[:-1] + b"?", b"?" + data[1:], data[:50] + b"??" + data[52:]):
        copy_as_dvc_does(wrong)
        with opened(path, "cubes"):
            assert not adopted(path)[0].samefile(file)
    file.unlink()
    with opened(path, "cubes"):
        pass
    copy_as_dvc_does(data)
    with opened(path) as reader:
        assert adopted(path)[0].samefile(file)
        assert same(reader.read(keys), rows)
        copy_as_dvc_does(data)
        with opened(path, "cubes"):
            assert adopted(path)[0].samefile(file)
        assert same(reader.read(keys), rows)
        assert reader.file_of(keys) == adopted(path)[0]
    assert len(list((path / "squares" / "0f").iterdir())) == 4


def test_a_reader_finds_what_another_process_has_moved(path: Path, tmp_path: Path) -> None:
    keys, rows = made_rows(26, 50)
    with opened(path) as stored:
        stored.append(keys, rows)
    with opened(path) as reader:
        with opened(path) as writer:
            writer.adopt(output(tmp_path / "output", rows), keys, ROW, len(HEAD))
            assert segments(path) == []
        assert reader.missing(keys).tolist() == []
        assert same(reader.read(keys), rows)


def test_what_a_killed_adoption_left_goes_in_time(path: Path, tmp_path: Path) -> None:
    keys, rows = made_rows(27, 5)
    with opened(path) as stored:
        stored.append(keys, rows)
    left = path / "squares" / "0f" / "0-0.adopted"
    left.write_bytes(rows.tobytes())
    with opened(path) as stored:
        assert same(stored.read(keys), rows)
        assert left.exists()  # it may be under way
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_rows, "LEFTOVER_SECONDS", -1)
        with opened(path):
            assert not left.exists()


def test_no_output_is_read_that_cannot_be_linked(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    keys, rows = made_rows(31, 50)
    file = output(tmp_path / "output", rows)
    with opened(path) as stored:
        stored.adopt(file, keys, ROW, len(HEAD))
        assert not adopted(path)[0].samefile(file)
    read: list[Path] = []
    monkeypatch.setattr(row_segments, "is_whole", lambda rows, _: bool(read.append(rows.path)))
    with opened(path, "cubes"):
        assert read == []


def test_locks_as_nfs_has_them(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    """There a file must be open for writing to be locked against all others."""
    flock = fcntl.flock

    def as_on_nfs(descriptor: int, operation: int) -> None:
        writes = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if operation & fcntl.LOCK_EX and not writes:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    keys, rows = made_rows(32, 50)
    with opened(path) as stored:
        stored.append(keys, rows)
        stored.adopt(output(tmp_path / "output", rows), keys, ROW, len(HEAD))
        assert segments(path) == []
        assert RowStore(path, 1).prune(0) == []
    assert [gone.name for gone in RowStore(path, 1).prune(0)] == ["squares"]
    assert warned.records == []


def test_a_segment_that_goes_while_it_is_taken_up_is_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, rows = made_rows(33, 20)
    with opened(path) as stored:
        stored.append(keys[:10], rows[:10])
    is_mine = row_segments._is_mine

    def removed_before(descriptor: int) -> bool:
        for segment in segments(path):  # by a process that found its rows elsewhere
            segment.unlink()
        return is_mine(descriptor)

    with opened(path) as stored:
        monkeypatch.setattr(row_segments, "_is_mine", removed_before)
        stored.append(keys[10:], rows[10:])
        stored.flush()
    monkeypatch.undo()
    with opened(path) as stored:
        assert same(stored.read(keys[10:]), rows[10:])


def test_what_is_moved_while_it_is_checked_is_checked_there(path: Path, tmp_path: Path) -> None:
    keys, rows = made_rows(34, 50)
    with opened(path) as stored:
        stored.append(keys, rows)
    with opened(path) as reader:
        with opened(path) as writer:
            writer.adopt(output(tmp_path / "output", rows), keys, ROW, len(HEAD))
            assert segments(path) == []
        assert reader.check() == []
        assert same(reader.read(keys), rows)


def test_two_may_remove_the_same_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, rows = made_rows(35, 5)
    with opened(path) as stored:
        stored.append(keys, rows)
    remove_tree = row_store.shutil.rmtree

    def after_another(folder: Path) -> None:
        remove_tree(folder)
        remove_tree(folder)

    monkeypatch.setattr(row_store.shutil, "rmtree", after_another)
    assert [gone.name for gone in RowStore(path, 1).prune(0)] == ["squares"]
    assert RowStore(path, 1).computations() == []


def test_a_process_that_was_forked_does_not_write(path: Path) -> None:
    keys, rows = made_rows(28, 5)
    with opened(path) as stored:
        stored._process += 1
        with pytest.raises(RowStoreError, match="before a fork"):
            stored.append(keys, rows)


def test_the_marker_says_the_layout(path: Path) -> None:
    RowStore(path, 1)
    assert json.loads((path / row_store.MARKER).read_text()) == {"layout": row_store.LAYOUT}
