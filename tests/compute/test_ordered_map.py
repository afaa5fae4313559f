"""The ordered map: order, bounds, errors in turn, early ends and processes that die."""

import multiprocessing
import operator
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from running_processes import ends, is_running

from compositional_prompts.compute import ordered_map
from compositional_prompts.compute.ordered_map import (
    WorkerDiedError,
    WorkerProcesses,
    batched,
    map_in_processes,
    map_in_threads,
)

plus_ten = partial(operator.add, 10)


def died(first: int, last: int) -> str:
    return f"it added to {first} to {last}. Try again."


def in_two_processes(items, work=plus_ten, **options):
    return map_in_processes(work, items, workers=2, in_flight=5, died=died, **options)


def in_three_threads(items, work=plus_ten):
    return map_in_threads(work, items, workers=3, in_flight=5)


def test_results_come_in_the_order_of_the_items_whatever_is_ready_first() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 * (4 - item % 5))
        return 10 * item

    assert list(map_in_threads(slow_first, range(20), workers=4, in_flight=8)) == [
        10 * item for item in range(20)
    ]


@pytest.mark.parametrize("mapped", [in_three_threads, in_two_processes, map_in_threads])
def test_nothing_is_lost_and_nothing_is_made_up(mapped) -> None:
    arguments = (plus_ten,) if mapped is map_in_threads else ()
    for count in (0, 1, 5, 12):
        assert list(mapped(*arguments, range(count))) == list(range(10, 10 + count))


@pytest.mark.parametrize("mapped", [in_three_threads, in_two_processes])
def test_no_more_items_are_taken_than_may_be_in_flight(mapped) -> None:
    taken = 0

    def counted() -> Iterator[int]:
        nonlocal taken
        for item in range(30):
            taken += 1
            yield item

    ahead = [taken - done for done, _ in enumerate(mapped(counted()))]
    assert max(ahead) == 5


class ReadyAtOnce(Executor):
    """In the place of processes: every result is ready before the next item can be taken."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, work, /, *arguments, **options):
        future: Future[Any] = Future()
        future.set_result(work(*arguments, **options))
        return future


@pytest.mark.parametrize(("when_ready", "ahead"), [(False, 5), (True, 1)])
def test_what_is_ready_waits_for_further_items_unless_it_is_wanted_at_once(
    when_ready: bool, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_map, "ProcessPoolExecutor", ReadyAtOnce)
    taken: list[int] = []
    results = WorkerProcesses(2).map(
        plus_ten,
        (taken.append(item) or item for item in range(10)),
        in_flight=5,
        died=died,
        when_ready=when_ready,
    )
    for done, result in enumerate(results):
        assert result == done + 10
        assert len(taken) == min(done + ahead, 10)


@pytest.mark.parametrize("mapped", [in_three_threads, in_two_processes])
def test_an_error_is_raised_when_its_item_is_due(mapped) -> None:
    results = mapped([1, 2, "three", 4])
    assert [next(results), next(results)] == [11, 12]
    with pytest.raises(TypeError):
        next(results)


def test_what_has_not_begun_when_the_consumer_stops_is_cancelled() -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item:
            go_on.wait()
        return item

    results = map_in_threads(work, range(100), workers=1, in_flight=10)
    assert next(results) == 0
    threading.Timer(0.2, go_on.set).start()
    results.close()  # type: ignore[attr-defined]
    assert begun in ([0], [0, 1])


def test_a_process_is_set_up_before_its_work(tmp_path: Path) -> None:
    moved = in_two_processes(["a", "b"], os.path.abspath, initializer=partial(os.chdir, tmp_path))
    assert list(moved) == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_a_process_that_dies_is_named_with_what_was_in_flight() -> None:
    results = in_two_processes(range(100))
    assert next(results) == 10
    for child in multiprocessing.active_children():
        child.kill()
    expected = r"^a worker process died while it added to \d+ to \d+\. Try again\.$"
    with pytest.raises(WorkerDiedError, match=expected):
        list(results)
    with pytest.raises(WorkerDiedError, match="added to 7 to 7"):
        list(in_two_processes([7], initializer=partial(os._exit, 3)))


def test_a_pool_that_another_one_takes_its_items_from_has_its_own_to_say() -> None:
    """Without an item in flight, and with some that are not to blame."""

    def drawn(count: int) -> Iterator[int]:
        yield from range(count)
        raise BrokenProcessPool("of the pool that draws")

    for count in (0, 3):
        with pytest.raises(BrokenProcessPool, match="that draws"):
            list(in_two_processes(drawn(count)))


def test_what_nobody_waits_for_any_more_ends_at_once() -> None:
    results = in_two_processes([0, 600, 600], time.sleep)
    assert next(results) is None
    workers = multiprocessing.active_children()
    results.close()
    assert not any(worker.is_alive() for worker in workers)


def test_lists_of_a_size() -> None:
    assert list(batched(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []


PARENT = """
import multiprocessing, time
from compositional_prompts.compute.ordered_map import map_in_processes

if __name__ == "__main__":
    results = map_in_processes(time.sleep, [0, 100], workers=1, in_flight=2, died=str)
    next(results)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(100)
"""


def test_its_processes_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert is_running(worker)
        parent.kill()
    assert ends(worker)
