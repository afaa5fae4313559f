"""What is computed of one image (or of one input made of it), and what decides its result.

A :class:`Computation` is small and can be pickled: threads, processes and actors of a cluster are
given it and load what it needs themselves, once, by :meth:`~Computation.start`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.imported_files import PACKAGE, imported_files
from compositional_prompts.files.digests import CONTENT_BYTES, content_digest
from compositional_prompts.files.scratch import code_of

KEY = np.dtype(f"V{CONTENT_BYTES}")
"""A row's key in numpy."""

STEERING = ("files", "pipeline", "compute/rows", "catalog", "datasets")
"""Rooms that read, write and steer; of them only :data:`COMPUTING` decides what a row says."""

COMPUTING = ("catalog/images.py", "datasets/image_check.py", "datasets/image_limits.py")
"""Modules of those rooms that compute: how an encoded image becomes pixels, or does not."""

NEUTRAL = (
    "compute/training/checkpoints.py",
    "compute/imported_files.py",
    "compute/ordered_map.py",
    "compute/processes.py",
    "compute/progress.py",
    "compute/resumable_stage.py",
)
"""Modules beside them that steer."""


CPU_BATCH = 32
"""Items that a CPU computes at once: the activations of more of them fit no cache."""


class Item(NamedTuple):
    """One input: its row's key, what to call it in an error, and what is computed on."""

    key: bytes
    name: str
    value: Any


class Worker(Protocol):
    """A computation that has loaded what it needs."""

    def prepare(self, value: Any) -> Any:
        """What :meth:`compute` takes of one item's value; called in several threads at once."""
        ...

    def compute(self, prepared: Sequence[Any]) -> NDArray[Any]:
        """The rows of a batch, a structured array ``[n]`` of one dtype, whatever the batch is.

        A row must not depend on its neighbours, its place or the number of rows.
        """
        ...


class Computation(ABC):
    """One kind of row. Subclasses are frozen dataclasses whose fields can be pickled."""

    name: ClassVar[str]
    """Of its folder in the store, and in messages: lower case, underscores."""

    libraries: ClassVar[Sequence[str]] = ("numpy", "pillow")
    """Distributions whose version decides the result too."""

    batch_size: int = CPU_BATCH
    """Items that a model computes at once."""

    in_processes: ClassVar[bool] = False
    """Whether Python itself works, so that threads would wait for one another; a model's mostly
    does not."""

    may_crash: ClassVar[bool] = False
    """Of those in processes: whether an item may end its process, so that it is never this one."""

    def further_libraries(self) -> Sequence[str]:
        """Distributions that compute with these settings or this model alone."""
        return ()

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All that decides a row beside its item, the code and the libraries, as JSON holds it.

        Models by their content (:func:`~compositional_prompts.files.digests.folder_digest`). Not:
        workers, engines, paths.
        """

    @abstractmethod
    def start(self) -> Worker:
        """Load what it needs, once a thread, process or actor."""

    @property
    def on_cpu(self) -> bool:
        """Whether a model on a CPU computes: batches are then computed side by side."""
        return not self.in_processes and getattr(self, "device", None) == "cpu"

    @property
    def padded_to(self) -> int | None:
        """How many items every batch is filled up to, so that all have the shape of
        :func:`kernel_batch`. It is part of :meth:`description`, since kernels may sum in another
        order for another shape. None where a row is the same whatever the shape: then a batch is
        as large as there are items.
        """
        return None if self.in_processes else self.batch_size

    def description(self) -> dict[str, Any]:
        """What decides a row, for people and for :func:`identity_of`; reads models whole."""
        return {
            "computation": self.name,
            "settings": dict(self.settings()),
            "batch": self.padded_to,
            "libraries": {
                name: installed_version(name)
                for name in (*self.libraries, *self.further_libraries())
            },
            "code": _code_digest(Path(str(sys.modules[type(self).__module__].__file__))),
        }

    def identity(self) -> str:
        """32 hexadecimal digits: two computations of one identity give the same rows."""
        return identity_of(self.description())


def identity_of(description: Mapping[str, Any]) -> str:
    """The identity of the computation that has this description, 32 hexadecimal digits."""
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def installed_version(distribution: str) -> str:
    """Of a distribution, or ``missing``: what needs it says so when it starts."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "missing"


def kernel_batch(device: str, wanted: int) -> int:
    """How many items a model computes at once, where ``wanted`` fit into memory.

    On a CPU at most :data:`CPU_BATCH`, so that every larger batch size gives the same bits; more
    would not be faster there. On a GPU as many as are wanted.

    Args:
        device: the type of a torch device.
        wanted: such as a stage's ``batch_size``.
    """
    return min(wanted, CPU_BATCH) if device == "cpu" else wanted


def row_key(content: bytes, *texts: str) -> bytes:
    """The key of a row that depends on these texts beside the photo, if there are any."""
    return content_digest(content, *texts) if texts else content


def key_array(keys: Sequence[bytes]) -> NDArray[np.void]:
    """Keys as an array of :data:`KEY`, ``[n]``."""
    return np.frombuffer(b"".join(keys), KEY)


def computing_files(module: Path) -> list[Path]:
    """The modules whose code decides a row: what ``module`` imports, without what steers."""
    return [file for file in {module, *imported_files(module)} if _computes(file)]


def _computes(file: Path) -> bool:
    if not file.is_relative_to(PACKAGE):
        return True
    name = file.relative_to(PACKAGE).as_posix()
    if name in COMPUTING:
        return True
    # Parameters decide by their values, which the settings hold.
    if name in NEUTRAL or file.name == "parameters.py":
        return False
    return not name.startswith(tuple(f"{room}/" for room in STEERING))


@cache
def _code_digest(module: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(computing_files(module)):
        digest.update(f"{file.name}\n".encode() + code_of(file))
    return digest.hexdigest()
