"""A computation on a Ray cluster: an actor a copy of the model, given batches of missing rows.

These are Ray's actors and not a dataset of Ray Data. A dataset is read by its workers or is in
Ray's object store as a whole before it begins, and cannot be fed by the process that asks: photos
would need a file system of all machines, or a catalogue's size of shared memory. Here they travel
in batches, two an actor, and that is all there is of them outside the catalog. Ray Data also waits
for a lost node until the cluster has given it up, where another actor takes the batch at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.imported_files import PACKAGE
from compositional_prompts.compute.ordered_map import WorkerDiedError
from compositional_prompts.compute.rows.computation import Computation, Item, key_array
from compositional_prompts.compute.rows.local_engine import TASK_ITEMS, tasks
from compositional_prompts.compute.rows.ray_actor import ComputingActor, Failure
from compositional_prompts.pipeline.section import RayCluster
from compositional_prompts.pipeline.terminal_text import say

BATCHES_AN_ACTOR: Final = 2
"""Batches given to an actor and not answered: one in the model, one on its way or prepared."""

BATCH_BYTES: Final = 32 * 2**20
"""Encoded photos that a batch holds at most, unless one alone is larger."""

MOST_LOSSES: Final = 3
"""How often a batch is computed whose worker dies, before it is held to be why."""

PATIENCE_SECONDS: Final = 30
"""After so long without a result while no actor runs, people are told what is waited for."""

_STORE_BYTES: Final = (128 * 2**20, 4 * 2**30)
"""The least and the most shared memory of a Ray of our own."""


@dataclass(eq=False)
class _Batch:
    items: list[Item]
    losses: int = 0


@dataclass(eq=False)
class _Actor:
    """An actor and what it was given: the answer to come, and the batch that it is of."""

    handle: Any
    starting: Any
    given: dict[Any, _Batch]

    def may_take(self, batch: _Batch) -> bool:
        """A batch whose worker died is alone with its next one, to tell which batch it was."""
        if self.starting is not None or any(other.losses for other in self.given.values()):
            return False
        return len(self.given) < (1 if batch.losses else BATCHES_AN_ACTOR)


class RayEngine:
    """The engine ``ray``: the cluster of ``base.ray.address``, or a Ray of this process alone."""

    def __init__(self, computation: Computation, cluster: RayCluster) -> None:
        """Nothing is started before the first item.

        Args:
            computation: what to run; its module must be importable, or ``__main__``.
            cluster: the section ``base.ray``.
        """
        self._computation = computation
        self._description: dict[str, Any] | None = None
        self._cluster = cluster
        self._connection: _Connection | None = None
        self._actors: list[_Actor] = []
        self._lost_starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection is None:
            return
        try:
            while self._actors:
                self._dismiss(self._actors[0])
        finally:
            self._connection.close()
            self._connection = None

    def compute(self, items: Iterable[Item]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Keys and rows of all items, a batch at a time, as they are ready.

        Raises:
            ModuleNotFoundError: Ray is not installed.
            ConnectionError: there is no cluster at ``base.ray.address``.
            ValueError: the machine has fewer GPUs than ``base.ray`` asks for.
            WorkerDiedError: one batch ended several workers.
            Exception: what the computation raises.
        """
        size = TASK_ITEMS if self._computation.in_processes else self._computation.batch_size
        batches = (_Batch(task) for task in tasks(items, size, BATCH_BYTES))
        waiting = deque(islice(batches, self._cluster.actors))
        if not waiting:
            return
        if self._connection is None:
            if self._cluster.address is not None:
                # What a cluster's machines must agree with.
                self._description = self._computation.description()
            self._connection = _Connection(self._cluster)
        # No more actors than batches: each loads the model.
        while len(self._actors) < len(waiting):
            self._hire()
        try:
            while True:
                while (actor := self._next_actor(waiting, batches)) is not None:
                    self._give(actor, waiting.popleft())
                if not waiting and not any(actor.given for actor in self._actors):
                    return
                for actor, answer in self._answers():
                    if actor not in self._actors:
                        continue  # lost with an answer before this one
                    batch = actor.given.get(answer)
                    rows = self._answer(actor, answer, waiting)
                    if batch is not None and rows is not None:
                        yield key_array([item.key for item in batch.items]), rows
        finally:
            for actor in self._actors:
                actor.given.clear()

    def _next_actor(self, waiting: deque[_Batch], batches: Iterator[_Batch]) -> _Actor | None:
        """Who takes the first of ``waiting``; None where there is nobody, or nothing to take."""
        if not waiting:
            if not any(actor.may_take(_NEW) for actor in self._actors):
                return None  # do not read ahead
            if not (new := list(islice(batches, 1))):
                return None
            waiting += new
        able = [actor for actor in self._actors if actor.may_take(waiting[0])]
        return min(able, key=lambda actor: len(actor.given), default=None)

    def _give(self, actor: _Actor, batch: _Batch) -> None:
        named = [(item.name, item.value) for item in batch.items]
        answer = actor.handle.compute.remote(named)
        actor.given[answer] = batch

    def _answers(self) -> list[tuple[_Actor, Any]]:
        """What came, at least one of what was asked; waits for it."""
        assert self._connection is not None
        ray = self._connection.ray
        asked = {actor.starting: actor for actor in self._actors if actor.starting is not None}
        asked |= {answer: actor for actor in self._actors for answer in actor.given}
        while True:
            ready, _ = ray.wait(list(asked), timeout=PATIENCE_SECONDS, fetch_local=False)
            if ready:
                return [(asked[answer], answer) for answer in ready]
            if all(actor.starting is not None for actor in self._actors):
                self._tell_of_waiting(ray)

    def _tell_of_waiting(self, ray: ModuleType) -> None:
        free = ray.available_resources()
        say(
            f"{self._computation.name}: no actor runs yet. Each waits for {self._cluster.cpus} "
            f"CPUs and {self._cluster.gpus:g} GPUs of one machine (base.ray), or loads its model; "
            f"the Ray cluster has {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs "
            "free.",
            file=sys.stderr,
        )

    def _answer(self, actor: _Actor, answer: Any, waiting: deque[_Batch]) -> NDArray[Any] | None:
        """The rows of an answer; None where it is of the start, or its worker was lost."""
        assert self._connection is not None
        ray = self._connection.ray
        lost = (
            ray.exceptions.RayActorError,
            ray.exceptions.ObjectLostError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.WorkerCrashedError,
        )
        try:
            found = ray.get(answer)
        except lost as error:
            self._replace(actor, waiting, error)
            return None
        if isinstance(found, Failure):
            found.reraise()
        if answer == actor.starting:
            actor.starting = None
            self._lost_starts = 0
            return None
        del actor.given[answer]
        # The answer lies in shared memory, which this gives back.
        return np.array(found)

    def _replace(self, actor: _Actor, waiting: deque[_Batch], error: Exception) -> None:
        """Put a lost actor's batches back, and hire another."""
        self._dismiss(actor)
        for batch in reversed(actor.given.values()):
            batch.losses += 1
            if batch.losses == MOST_LOSSES:
                raise WorkerDiedError(
                    f"a worker process died while it computed {self._computation.name} of the "
                    f"images from {batch.items[0].name} to {batch.items[-1].name}, and so did "
                    f"{MOST_LOSSES - 1} others: one of them crashes its decoder, or memory ran "
                    "out. Remove it, or give actors more memory (fewer of them: base.ray.actors)."
                ) from error
            waiting.appendleft(batch)
        if actor.starting is not None:
            self._lost_starts += 1
            if self._lost_starts == MOST_LOSSES * self._cluster.actors:
                raise WorkerDiedError(
                    f"{self._lost_starts} actors in a row died while they loaded "
                    f"{self._computation.name}: memory ran out (fewer base.ray.actors), or Python "
                    f"or a package is not on the machines ({' '.join(str(error).split())[:500]})."
                ) from error
        self._hire()

    def _hire(self) -> None:
        assert self._connection is not None
        ray = self._connection.ray
        made = (
            ray.remote(ComputingActor)
            .options(
                num_cpus=self._cluster.cpus,
                num_gpus=self._cluster.gpus,
                max_concurrency=BATCHES_AN_ACTOR,
                scheduling_strategy="SPREAD",
            )
            .remote(
                ray.cloudpickle.dumps(self._computation),
                self._description,
                str(Path.cwd()),
                self._cluster.cpus,
            )
        )
        self._actors.append(_Actor(made, made.start.remote(), {}))

    def _dismiss(self, actor: _Actor) -> None:
        assert self._connection is not None
        self._actors.remove(actor)
        with contextlib.suppress(self._connection.ray.exceptions.RayError):
            self._connection.ray.kill(actor.handle)


_NEW = _Batch([])
"""For :meth:`_Actor.may_take`: a batch that no worker died of."""


class _Connection:
    """To a cluster, or a Ray that is started and ended here. An open one of the process is used."""

    def __init__(self, cluster: RayCluster) -> None:
        self._environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # The coming meaning of CUDA_VISIBLE_DEVICES without GPUs; Ray warns of the change.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self.ray = _ray()
        self._folder: Path | None = None
        self._ours = not self.ray.is_initialized()
        self._on_sigterm: Any = None
        if not self._ours:
            return
        if threading.current_thread() is threading.main_thread():
            self._on_sigterm = signal.getsignal(signal.SIGTERM)
        # What Ray says of nodes and workers is told to people only where it ends the run; it has
        # no public way to say so.
        self.ray._private.worker._worker_logs_enabled = False
        try:
            if cluster.address is None:
                self._start(cluster)
            else:
                self._join(cluster.address, cluster.cpus)
            if self._on_sigterm is not None:
                # Ray's core reports a crash and aborts, where our own Ray would have to be ended.
                ours = self._on_sigterm
                signal.signal(signal.SIGTERM, _end if ours == signal.SIG_DFL else ours)
        except BaseException:
            self.close()
            raise

    def _start(self, cluster: RayCluster) -> None:
        # Not in TMPDIR, which may be too long for the name of a socket.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        # An environment of Ray's costs seconds; its processes inherit ours.
        os.environ["OMP_NUM_THREADS"] = str(cluster.cpus)
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        least, most = _STORE_BYTES
        in_flight = 2 * BATCHES_AN_ACTOR * cluster.actors * BATCH_BYTES
        self.ray.init(
            address="local",  # whatever RAY_ADDRESS says
            num_cpus=cluster.cpus * cluster.actors,
            include_dashboard=False,
            object_store_memory=min(max(least, in_flight), most),
            _temp_dir=str(self._folder),
            **_QUIET,
        )
        wanted = cluster.gpus * cluster.actors
        found = self.ray.cluster_resources().get("GPU", 0)
        if wanted > found:
            raise ValueError(
                f"base.ray asks for {cluster.actors} actors of {cluster.gpus:g} GPUs, and this "
                f"machine has {found:g}: lower base.ray.actors or base.ray.gpus, or name a "
                "cluster's address."
            )

    def _join(self, address: str, cpus: int) -> None:
        environment = {
            # Rows depend on the code: the workers' is the one here.
            "py_modules": [str(PACKAGE)],
            "excludes": ["__pycache__"],
            "env_vars": {"OMP_NUM_THREADS": str(cpus)},
        }
        try:
            if address != "auto":
                host, _, port = address.rpartition(":")
                with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
                    pass
            self.ray.init(address=address, runtime_env=environment, **_QUIET)
        except (OSError, RuntimeError, ValueError) as error:
            _refuse_address(address, error)

    def close(self) -> None:
        if not self._ours:
            return
        self.ray.shutdown()
        self.ray._private.worker._worker_logs_enabled = True
        if self._on_sigterm is not None:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        for name, value in self._environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


_ENVIRONMENT: Final = (
    "OMP_NUM_THREADS",
    "PYTHONPATH",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
    "RAY_USAGE_STATS_ENABLED",
)
"""Variables that are set while a Ray is at hand."""

_QUIET: Final = {"log_to_driver": False, "logging_level": "ERROR"}


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)  # as a shell has it


def _ray() -> ModuleType:
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError(
            "base.engine is ray, and Ray is not installed: in the checkout, run .venv/bin/pip "
            "install -c constraints.txt -e '.[ray]', or set base.engine to local."
        ) from error
    return ray


def _refuse_address(address: str, error: Exception) -> NoReturn:
    said = " ".join(str(error).split())[:500]
    raise ConnectionError(
        f"base.ray.address is {address}, and no Ray cluster can be joined there ({said}). The "
        "stage must run on a machine of the cluster: `ray status` there says whether it is one, "
        "`ray start --address=HEAD:6379` makes it one. With null a Ray of its own is started."
    ) from error
