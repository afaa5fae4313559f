"""What runs on a worker of a Ray cluster: one computation, loaded once, given batches.

It imports nothing of Ray: Ray makes an actor of it.
"""

from __future__ import annotations

import os
import pickle
import platform
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.rows.computation import (
    Computation,
    Worker,
    installed_version,
)
from compositional_prompts.compute.rows.local_engine import compute_batch
from compositional_prompts.files.outputs import naming
from compositional_prompts.pipeline.error_messages import is_explained

Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """An exception of a computation, as it travels: Ray would wrap it in one of its own.

    Attributes:
        pickled: the exception.
        explained: whether its message is meant for people (told by its traceback, which does not
            travel).
        trace: that traceback, as text.
    """

    pickled: bytes
    explained: bool
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        trace = "".join(traceback.format_exception(error))
        try:
            pickled = pickle.dumps(error)
            pickle.loads(pickled)
        except Exception:  # whatever the exception is made of
            pickled = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(pickled, is_explained(error), trace)

    def reraise(self) -> NoReturn:
        """Raise the exception, so that it is explained or a bug as it was where it arose."""
        error: Exception = pickle.loads(self.pickled)
        if self.explained:
            raise error
        error.add_note(f"On the worker:\n{self.trace}")
        # Raised by a library, it counts as no error of this package's.
        bug: Future[Any] = Future()
        bug.set_exception(error)
        bug.result()
        raise AssertionError("not reached")


class ComputingActor:
    """One copy of a computation. Its methods return an exception of theirs as a :class:`Failure`.

    Two batches may be under way: one in the model, and one that is prepared meanwhile.
    """

    def __init__(
        self, computation: bytes, description: Mapping[str, Any] | None, folder: str, threads: int
    ) -> None:
        """Nothing is loaded yet.

        Args:
            computation: pickled.
            description: what must decide a row here too; None where that goes without saying.
            folder: where relative paths begin, on whichever machine.
            threads: threads that prepare.
        """
        self._pickled = computation
        self._description = description
        self._folder = Path(folder)
        self._preparing = ThreadPoolExecutor(threads)
        # The model stays in the thread that loaded it, as it does locally.
        self._computing = ThreadPoolExecutor(1)
        self._worker: Worker | None = None
        self._padded_to: int | None = None
        self._name = ""

    def start(self) -> Failure | None:
        """Load the computation."""
        return _tried(lambda: self._computing.submit(self._load).result())

    def compute(self, named: Sequence[tuple[str, Any]]) -> NDArray[Any] | Failure:
        """The rows of some items' names and values, ``[n]``."""
        return _tried(lambda: self._rows(named))

    def _load(self) -> None:
        if self._description is not None:
            _require_versions(self._description["libraries"])
        if shared := self._folder.is_dir():
            os.chdir(self._folder)
        try:
            computation: Computation = pickle.loads(self._pickled)
            if self._description is not None:
                _require_same(self._description, computation.description())
            self._worker = computation.start()
        except FileNotFoundError as error:
            if shared:
                raise
            raise FileNotFoundError(
                f"{self._folder} is not on {platform.node()}, a machine of the Ray cluster: models "
                f"are loaded there by their paths in the project ({error}). Give all machines the "
                "project under one path, by a shared file system."
            ) from error
        self._padded_to = computation.padded_to
        self._name = computation.name

    def _rows(self, named: Sequence[tuple[str, Any]]) -> NDArray[Any]:
        worker = self._worker
        assert worker is not None  # start() came first

        def prepare(item: tuple[str, Any]) -> Any:
            name, value = item
            with naming(name):
                return worker.prepare(value)

        prepared = list(self._preparing.map(prepare, named))
        names = [name for name, _ in named]
        computed = self._computing.submit(
            compute_batch, worker, prepared, self._padded_to, names, self._name
        )
        return np.ascontiguousarray(computed.result())


def _tried(work: Callable[[], Result]) -> Result | Failure:
    try:
        return work()
    except Exception as error:
        return Failure.of(error)


def _require_versions(libraries: Mapping[str, str]) -> None:
    """Raise :class:`ValueError` where this machine would compute with other libraries."""
    for name, wanted in libraries.items():
        if (found := installed_version(name)) != wanted:
            raise ValueError(
                f"{name} is {found} on {platform.node()}, a machine of the Ray cluster, and "
                f"{wanted} where the stage runs: rows depend on it. Install constraints.txt on all "
                "machines."
            )


def _require_same(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise :class:`ValueError` where this machine would compute other rows."""
    different = [name for name in wanted if wanted[name] != found.get(name)]
    if different:
        raise ValueError(
            f"{platform.node()}, a machine of the Ray cluster, would compute other rows: of "
            f"{wanted['computation']} it has other {' and '.join(different)} (of models that is "
            "their content). Give all machines the project under one path, by a shared file system."
        )
