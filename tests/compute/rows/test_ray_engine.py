"""The engine ``ray`` gives what the local one gives, on a cluster of two nodes of this machine."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from base_section import base_section
from killed_runs import script_environment
from number_rows import Numbers, SlowSquares, Squares, SquaresInProcesses
from numpy.typing import NDArray
from ray.cluster_utils import Cluster

from compositional_prompts.compute.ordered_map import WorkerDiedError
from compositional_prompts.compute.rows.completed_rows import complete_rows
from compositional_prompts.compute.rows.computation import Computation, Item
from compositional_prompts.compute.rows.local_engine import LocalEngine
from compositional_prompts.compute.rows.ray_actor import ComputingActor, Failure
from compositional_prompts.compute.rows.ray_engine import RayEngine
from compositional_prompts.files.outputs import OutputError
from compositional_prompts.pipeline.error_messages import is_explained
from compositional_prompts.pipeline.section import RayCluster

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of processes that Ray starts
]

RAY = str(Path(ray.__file__).parent)
ATTEMPTS = 5
PATIENCE_SECONDS = 300
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def add_node(cluster: Cluster, **settings: Any) -> None:
    """Ray gives a node 30 seconds to start, fewer than it needs on a machine that is busy."""
    for left in reversed(range(ATTEMPTS)):
        try:
            cluster.add_node(wait=False, **SMALL, **settings)
            return
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of one CPU each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in script_environment().items():
            patch.setenv(name, value)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster()
        add_node(cluster, include_dashboard=False)
        add_node(cluster)
        cluster.wait_for_nodes(PATIENCE_SECONDS)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def two_nodes(nodes: Cluster) -> RayCluster:
    """The section ``base.ray``."""
    return section(nodes.address)


def section(address: str | None, actors: int = 2) -> RayCluster:
    return RayCluster(address=address, actors=actors, cpus=1, gpus=0.0)


def all_items(numbers: Iterable[int | str]) -> Iterator[Item]:
    source = Numbers(list(numbers))
    return source.items(np.arange(len(source.keys)))


Found = dict[bytes, bytes]


def by_key(results: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> Found:
    """The bytes of every row; each arrives once."""
    found: Found = {}
    for keys, rows in results:
        assert len(keys) == len(rows)
        new = dict(zip(keys.tolist(), (row.tobytes() for row in rows), strict=True))
        assert not set(new) & set(found)
        found |= new
    return found


def locally(computation: Computation, numbers: Iterable[int | str]) -> Found:
    with LocalEngine(computation, 1) as engine:
        return by_key(engine.compute(all_items(numbers)))


def test_rows_are_those_of_the_local_engine(two_nodes: RayCluster, tmp_path: Path) -> None:
    numbers = [*range(90), 5]
    base = base_section(tmp_path / "rows", engine="ray", ray=two_nodes.model_dump())
    with complete_rows(Squares(), Numbers(numbers), base) as completed:
        assert completed.computed == 90
        (batch,) = completed.batches()
        found = dict(zip(completed.keys.tolist(), map(bytes, batch), strict=True))
    assert found == locally(Squares(), range(90))


class TestConnected:
    """On one connection, which the engine uses and leaves open."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def connected(cls, nodes: Cluster) -> Iterator[None]:
        ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
        yield
        assert ray.is_initialized()
        ray.shutdown()

    def test_an_engine_is_given_items_as_often_as_there_are_some(
        self, two_nodes: RayCluster
    ) -> None:
        with RayEngine(Squares(), two_nodes) as engine:
            for numbers in ([], range(30), [7]):
                found = by_key(engine.compute(all_items(numbers)))
                assert found == locally(Squares(), numbers)
            left = engine.compute(all_items(range(30)))
            next(left)
            left.close()
            assert by_key(engine.compute(all_items([8]))) == locally(Squares(), [8])

    def test_what_needs_processes_gets_them(self, two_nodes: RayCluster) -> None:
        values = []
        with RayEngine(SquaresInProcesses(), two_nodes) as engine:
            for _, rows in engine.compute(all_items(range(150))):
                assert rows.flags.owndata
                values += rows["value"].tolist()
        assert sorted(values) == [number**2 for number in range(150)]

    def test_a_computation_s_error_is_its_own(self, two_nodes: RayCluster) -> None:
        with RayEngine(Squares(), two_nodes) as engine, pytest.raises(ValueError) as bug:
            by_key(engine.compute(all_items([*range(9), "one"])))
        assert str(bug.value) == "invalid literal for int() with base 10: b'one'"
        assert not is_explained(bug.value)
        (note,) = bug.value.__notes__
        assert "number_rows.py" in note
        with RayEngine(Squares(), two_nodes) as engine, pytest.raises(OutputError) as mistake:
            by_key(engine.compute(all_items([1, "damaged"])))
        assert is_explained(mistake.value)
        assert (str(mistake.value), mistake.value.paths) == (
            "damaged is damaged.",
            (Path("damaged"),),
        )
        assert not hasattr(mistake.value, "__notes__")
        assert not any(str(entry.path).startswith(RAY) for entry in mistake.traceback)

    def test_a_batch_that_ends_its_workers_is_named(self, two_nodes: RayCluster) -> None:
        found: Found = {}
        said = r"computed squares of the images from die to 14, and so did 2 others"
        with RayEngine(Squares(), two_nodes) as engine, pytest.raises(WorkerDiedError, match=said):
            for part in engine.compute(all_items([*range(12), "die", *range(12, 15)])):
                found |= by_key([part])
        assert found.items() <= locally(Squares(), range(12)).items()


def test_a_lost_node_costs_what_it_had_at_hand(
    nodes: Cluster, two_nodes: RayCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    (other,) = nodes.worker_nodes
    numbers = range(400)

    def killed_in_the_middle() -> Iterator[Item]:
        for count, item in enumerate(all_items(numbers)):
            if count == 200:
                nodes.remove_node(other, allow_graceful=False)
            yield item

    with RayEngine(SlowSquares(), two_nodes) as engine:
        assert by_key(engine.compute(killed_in_the_middle())) == locally(Squares(), numbers)
    assert capfd.readouterr() == ("", "")


RUN = """
from pathlib import Path
from compositional_prompts.compute.rows.ray_engine import RayEngine
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.section import RayCluster
from number_rows import Numbers, Squares
import itertools
import numpy as np

def main():
    cluster = RayCluster(address=None, actors=1, cpus=1, gpus=0.0)
    with RayEngine(Squares(), cluster) as engine:
        for keys, rows in engine.compute(items_for_ever()):
            print("row", flush=True)

def items_for_ever():
    while True:
        yield from Numbers(range(8)).items(np.arange(8))

if __name__ == "__main__":
    run_script(main)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_an_ended_stage_leaves_nothing_of_its_own_ray(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    script = tmp_path / "stage.py"
    script.write_text(RUN)
    before = set(Path("/tmp").glob("ray-*"))
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.readline() == "row\n"
        family = psutil.Process(run.pid).children(recursive=True)
        assert len(family) > 3
        if number == signal.SIGINT:
            os.killpg(run.pid, number)  # as a terminal does
        else:
            run.send_signal(number)
        assert run.wait(60) == status
        assert set(run.stdout.read().split()) <= {"row"}
        said = run.stderr.read()
    _, left = psutil.wait_procs(family, timeout=30)
    assert left == []
    ended = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert said == f"stage: {ended}\n"
    assert set(Path("/tmp").glob("ray-*")) <= before


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "auto"])
def test_a_wrong_address_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found_none(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", found_none)  # auto would find those of other tests
    said = rf"base\.ray\.address is {address}, and no Ray cluster .* `ray start"
    with RayEngine(Squares(), section(address)) as engine, pytest.raises(OSError, match=said):
        by_key(engine.compute(all_items([1])))


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "", "head:port"])
def test_an_address_has_a_form(address: str) -> None:
    with pytest.raises(ValueError, match=r"must be null, auto .* or HOST:PORT"):
        section(address)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = r"-c constraints\.txt -e '\.\[ray\]', or set base\.engine to local"
    with (
        RayEngine(Squares(), section(None)) as engine,
        pytest.raises(ModuleNotFoundError, match=said),
    ):
        by_key(engine.compute(all_items([1])))


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_an_error_that_cannot_travel_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="OddError: 1 and 2"):
        Failure.of(OddError(1, 2)).reraise()


def started(computation: Computation, folder: Path, **other: Any) -> Failure | None:
    here = computation.description() | other
    return ComputingActor(pickle.dumps(computation), here, str(folder), 1).start()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"libraries": {"numpy": "0.1"}}, r"numpy is [\d.]+ on .* and 0\.1 where the stage runs"),
        ({"libraries": {"not-there": "1"}}, r"not-there is missing on "),
        ({"settings": {"power": 3}}, r"of squares it has other settings \("),
        ({"code": "", "batch": 1}, r"of squares it has other batch and code \("),
    ],
)
def test_other_machines_compute_the_same(
    other: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert started(Squares(), tmp_path) is None
    failure = started(Squares(), tmp_path, **other)
    assert failure is not None and failure.explained
    with pytest.raises(ValueError, match=said):
        failure.reraise()


def test_a_folder_that_other_machines_lack_is_named(tmp_path: Path) -> None:
    failure = started(SquaresOfFile(), tmp_path / "absent")
    assert failure is not None
    with pytest.raises(FileNotFoundError, match=r"absent is not on .* under one path"):
        failure.reraise()


class SquaresOfFile(Squares):
    def start(self) -> Any:
        return Path("models/power").read_text()
