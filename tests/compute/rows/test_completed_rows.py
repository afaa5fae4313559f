"""Rows are computed once, of what lacks one, and alike whatever runs them."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from base_section import base_section
from number_rows import Numbers, Squares, SquaresInProcesses, SquareWorker
from numpy.typing import NDArray

from compositional_prompts.captioner.decoding import sampling
from compositional_prompts.compute import ordered_map
from compositional_prompts.compute.imported_files import imported_files
from compositional_prompts.compute.ordered_map import WorkerDiedError
from compositional_prompts.compute.rows import computation, stored_rows
from compositional_prompts.compute.rows.completed_rows import complete_rows, open_rows
from compositional_prompts.compute.rows.computation import (
    Item,
    computing_files,
    kernel_batch,
    key_array,
    row_key,
)
from compositional_prompts.compute.rows.local_engine import TASK_ITEMS
from compositional_prompts.compute.rows.ray_actor import ComputingActor, Failure
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.outputs import UnusableItemError
from compositional_prompts.pipeline.error_messages import is_explained
from compositional_prompts.pipeline.section import Base


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", [Squares, SquaresInProcesses])
def test_only_what_lacks_a_row_is_computed(
    kind: type[Squares], workers: int, tmp_path: Path
) -> None:
    base = base_section(tmp_path / "rows", workers=workers)
    computation = kind(log=tmp_path / "log")
    with complete_rows(computation, Numbers([3, 1, 3, 2]), base) as rows:
        assert (len(rows), rows.computed) == (4, 3)
        (batch,) = rows.batches()
        assert batch["value"].tolist() == [9, 1, 9, 4]
    (tmp_path / "log").unlink()
    with complete_rows(computation, Numbers([5, 2, 1, 7, 3, 5]), base) as rows:
        assert (len(rows), rows.computed) == (6, 2)
        found = [batch["value"].tolist() for batch in rows.batches(4)]
        assert found == [[25, 4, 1, 49], [9, 25]]
        assert rows.read(np.array([4, 0]))["value"].tolist() == [9, 25]
    asked = (tmp_path / "log").read_text().split()
    assert set(asked[1:]) == {"5", "7"}


def test_a_model_sees_batches_of_one_size(tmp_path: Path) -> None:
    base = base_section(tmp_path / "rows")
    with complete_rows(Squares(batch_size=4), Numbers(range(6)), base) as rows:
        (batch,) = rows.batches()
    assert batch["batch"].tolist() == [4] * 6
    assert batch["value"].tolist() == [0, 1, 4, 9, 16, 25]


@dataclass(frozen=True)
class SquaresOnACpu(Squares):
    """As a model's on a CPU: two batches must be under way at once, or it fails."""

    device: str = "cpu"

    def start(self) -> SquareWorker:
        met = threading.Barrier(2, timeout=30)

        class Meeting(SquareWorker):
            def compute(self, prepared: Sequence[int]) -> NDArray[Any]:
                met.wait()
                return super().compute(prepared)

        return Meeting(self.power, self.log)


def test_a_model_on_a_cpu_computes_batches_side_by_side(tmp_path: Path) -> None:
    base = base_section(tmp_path / "rows")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with complete_rows(SquaresOnACpu(), Numbers(range(14)), base) as rows:
            (batch,) = rows.batches()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert batch["value"].tolist() == [number**2 for number in range(14)]
    assert batch["batch"].tolist() == [4] * 14
    assert SquaresOnACpu().on_cpu
    assert not SquaresOnACpu(device="cuda").on_cpu
    assert not Squares().on_cpu and not SquaresInProcesses().on_cpu


def test_nothing_is_started_where_nothing_is_missing(tmp_path: Path) -> None:
    base = base_section(tmp_path / "rows")
    with complete_rows(Squares(), Numbers([]), base) as rows:
        assert (len(rows), rows.computed, list(rows.batches())) == (0, 0, [])


def test_what_decides_a_row_is_in_its_identity() -> None:
    assert Squares().identity() == Squares(log=Path("elsewhere")).identity()
    assert Squares().identity() != Squares(power=3).identity()
    # Kernels of another shape may sum in another order.
    assert Squares().identity() != Squares(batch_size=9).identity()


def test_a_library_that_some_settings_need_decides_too(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Further(Squares):
        further: tuple[str, ...] = ()

        def further_libraries(self) -> tuple[str, ...]:
            return self.further

    plain = Further().description()["libraries"]
    further = Further(further=("torch", "not-there"))
    assert further.description()["libraries"] == {
        **plain,
        "torch": version("torch"),
        "not-there": "missing",
    }
    before = further.identity()
    monkeypatch.setattr(computation, "version", lambda _: "2")
    assert further.identity() != before


def test_every_large_batch_is_computed_in_one_shape_on_a_cpu() -> None:
    assert [kernel_batch("cpu", wanted) for wanted in (1, 31, 32, 33, 512)] == [1, 31, 32, 32, 32]
    assert [kernel_batch("cuda", wanted) for wanted in (1, 512)] == [1, 512]


def test_an_error_of_a_computation_is_its_own(tmp_path: Path) -> None:
    base = base_section(tmp_path / "rows")
    with (
        pytest.raises(ValueError, match="invalid literal"),
        complete_rows(Squares(), Numbers([1, "one"]), base),
    ):
        pass


def on_an_actor(computation: Squares, numbers: Numbers, _: Base) -> None:
    actor = ComputingActor(pickle.dumps(computation), None, "", 1)
    assert actor.start() is None
    every = np.arange(len(numbers.keys))
    answer = actor.compute([(item.name, item.value) for item in numbers.items(every)])
    assert isinstance(answer, Failure)
    answer.reraise()


def completed(computation: Squares, numbers: Numbers, base: Base) -> None:
    with complete_rows(computation, numbers, base):
        pass


@pytest.mark.parametrize(
    ("run", "kind", "workers"),
    [
        (completed, Squares, 1),
        (completed, SquaresInProcesses, 1),
        (completed, SquaresInProcesses, 2),
        (on_an_actor, Squares, 1),
    ],
)
def test_an_item_that_cannot_be_used_is_named(
    run: Callable[[Squares, Numbers, Base], None],
    kind: type[Squares],
    workers: int,
    tmp_path: Path,
) -> None:
    base = base_section(tmp_path / "rows", workers=workers)
    with pytest.raises(UnusableItemError, match=r"^unusable: it is no number\.$") as raised:
        run(kind(), Numbers([1, "unusable"]), base)
    assert is_explained(raised.value)
    with pytest.raises(MemoryError, match=r"^huge: too little memory .*; lower base\.workers"):
        run(kind(), Numbers([1, "huge"]), base)


def test_a_worker_that_dies_names_what_it_was_at(tmp_path: Path) -> None:
    base = base_section(tmp_path / "rows")
    died = r"computed squares of the images from 1 to die: .* lower base\.workers"
    with (
        pytest.raises(WorkerDiedError, match=died),
        complete_rows(SquaresInProcesses(), Numbers([1, "die"]), base),
    ):
        pass


def test_keys_tell_apart_what_rows_depend_on() -> None:
    photo = content_digest(b"photo")
    keys = [photo, row_key(photo, "a"), row_key(photo, "a", ""), row_key(photo, "", "a")]
    assert len({*keys, row_key(photo, "ab"), row_key(photo, "a", "b")}) == 6
    assert row_key(photo) == photo
    assert key_array(keys).tolist() == keys


def test_code_that_only_steers_decides_nothing() -> None:
    from compositional_prompts.clip import catalog_vectors

    names = {file.name for file in computing_files(Path(str(catalog_vectors.__file__)))}
    assert {"catalog_vectors.py", "embedding.py", "images.py", "lean_open_clip.py"} <= names
    assert not names & {"row_store.py", "outputs.py", "reading.py", "section.py", "progress.py"}


def test_parameters_decide_by_their_values_alone() -> None:
    module = Path(str(sampling.__file__))
    assert any(file.name == "parameters.py" for file in imported_files(module))
    assert not any(file.name == "parameters.py" for file in computing_files(module))


class UnpaddedSquares(Squares):
    @property
    def padded_to(self) -> None:
        return None


class ReadyAtOnce(Executor):
    """In the place of processes: every task is done before another item is asked for."""

    def __init__(
        self, workers: int, context: object, begin: Callable[..., None], given: tuple[Any, ...]
    ) -> None:
        begin(*given)

    def submit(self, work, /, *arguments, **options):
        future: Future[Any] = Future()
        future.set_result(work(*arguments, **options))
        return future


class SlowNumbers(Numbers):
    """Looks, whenever an item is taken, at how many rows a kill would leave."""

    def __init__(self, count: int, kept: Callable[[], int]) -> None:
        super().__init__(range(count))
        self.kept = kept
        self.left: list[int] = []

    def items(self, positions: NDArray[np.int64]) -> Iterator[Item]:
        for item in super().items(positions):
            self.left.append(self.kept())
            yield item


def test_what_processes_have_computed_is_confirmed_while_items_come_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_map, "ProcessPoolExecutor", ReadyAtOnce)
    monkeypatch.setattr(ordered_map, "_end_with", bool)
    monkeypatch.setattr(stored_rows, "BLOCK_BYTES", 1)  # as if there were always 2 seconds between
    base = base_section(tmp_path / "rows", workers=2)

    def kept() -> int:
        with open_rows(SquaresInProcesses(), base) as rows:
            return len(rows)

    numbers = SlowNumbers(5 * TASK_ITEMS, kept)
    with complete_rows(SquaresInProcesses(), numbers, base) as rows:
        assert rows.computed == 5 * TASK_ITEMS
    assert numbers.left == [n // TASK_ITEMS * TASK_ITEMS for n in range(5 * TASK_ITEMS)]


def test_where_shapes_decide_nothing_batches_are_not_filled_up(tmp_path: Path) -> None:
    computation = UnpaddedSquares(batch_size=4)
    assert computation.identity() == UnpaddedSquares(batch_size=3).identity()
    with complete_rows(computation, Numbers(range(6)), base_section(tmp_path / "rows")) as rows:
        (batch,) = rows.batches()
    assert batch["batch"].tolist() == [4, 4, 4, 4, 2, 2]
