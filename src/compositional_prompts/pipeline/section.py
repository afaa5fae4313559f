"""What the sections of ``params.yaml`` are made of: strict, typed, immutable."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

MOST_WORKERS: Final = 1024
"""Processes of one machine, and of them many more than it has any use for."""

MOST: Final = 2**31 - 1
"""Of whatever is counted: what the narrowest integers hold that it is computed with."""

Positive = Annotated[int, Field(ge=1, le=MOST)]


Workers = Annotated[int, Field(ge=1, le=MOST_WORKERS)]
"""Processes, threads, connections: each takes up to 150 MB, and a place in the system's table."""


MOST_AT_ONCE: Final = 65_536

ItemsAtOnce = Annotated[int, Field(ge=1, le=MOST_AT_ONCE)]
"""Items of a batch, which lie in memory together."""


Width = Annotated[int, Field(ge=1, le=16_384)]
"""Of a layer, more than the widest that published models have."""


Tokens = Annotated[int, Field(ge=1, le=4096)]
"""Of a text, more than the language models of BLIP-2 and the text towers of CLIP read."""

NonNegative = Annotated[int, Field(ge=0, le=MOST)]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy takes as one."""

ByteCount = Annotated[int, Field(ge=1, le=2**53)]
"""The size of a file."""

Rate = Annotated[float, Field(gt=0, le=1e6)]
"""Seconds, sizes, norms: above 0, and not so much that computing with it ends in infinity."""

LearningRate = Annotated[float, Field(gt=0, le=1)]
"""Of any optimiser here: at a higher one nothing is learnt."""

Fraction = Annotated[float, Field(ge=0, le=1)]

PartOfOne = Annotated[float, Field(ge=0, lt=1)]
"""A share that leaves something, as dropout must."""

NonNegativeFloat = Annotated[float, Field(ge=0, le=1e6)]


Precision = Literal["float32", "bfloat16", "float16", "int8", "int4"]


PrecisionChoice = Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"]


QUANTIZED: Final = ("int8", "int4")
"""Precisions that bitsandbytes provides, on CUDA only; they compute in bfloat16."""


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


Words = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


def _number_or_auto(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value == "auto" or (whole and 1 <= value <= MOST_AT_ONCE):
        return value
    raise ValueError(f"must be a whole number from 1 to {MOST_AT_ONCE}, or auto")


BatchSize = Annotated[int | Literal["auto"], PlainValidator(_number_or_auto)]


def require_distinct(names: Iterable[str], what: str) -> None:
    """Raise :class:`ValueError`, which begins with ``what``, where a name stands twice."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{what} {name!r} {count} times")


class ParameterError(ValueError):
    """A file that people write (params.yaml, a preset, dvc.yaml) is not what it should be."""


class Section(BaseModel):
    """A group of parameters: immutable, no coercion between types, no unknown keys, and no number
    that is infinite or none at all (``.inf``, ``.nan``).
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    section: ClassVar[str]
    """Its name in ``params.yaml``, of those that a stage reads whole."""


def _command(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"must be a command: {error}") from error
    if not words:
        raise ValueError("must be a command, such as python or accelerate launch")
    return text


_COPIES: Final = (".dvc", "tmp", "exps")


def in_project(path: Path) -> Path:
    """Where a path lies that is relative to the project.

    Where DVC runs an experiment in a copy of the project (below ``.dvc/tmp/exps``) it is below that
    project, and not below the copy, which goes with the experiment.
    """
    copies = [parent for parent in Path.cwd().parents if parent.parts[-3:] == _COPIES]
    return copies[-1].parents[2] / path if copies else path


class KeptRows(Section):
    """Where rows that were computed once are kept, outside DVC's outputs."""

    path: Annotated[str, Field(min_length=1)]
    max_gib: Rate

    @property
    def folder(self) -> Path:
        """Where they lie, as :func:`in_project` says."""
        return in_project(Path(self.path).expanduser())


def _ray_address(text: str | None) -> str | None:
    if text is None or text == "auto" or re.fullmatch(r"[^/]+:\d{1,5}", text):
        return text
    raise ValueError(
        "must be null, auto (the cluster that this machine is part of) or HOST:PORT of its head, "
        "such as 10.0.0.1:6379; a ray:// address is of Ray Client, whose runs end with their "
        "connection: start the pipeline on a machine of the cluster instead"
    )


class RayCluster(Section):
    """The actors of the engine ``ray``."""

    address: Annotated[str | None, AfterValidator(_ray_address)]
    actors: Annotated[int, Field(ge=1, le=2**16)]
    cpus: Workers
    gpus: Annotated[float, Field(ge=0, le=MOST_WORKERS)]


class Base(Section):
    section: ClassVar[str] = "base"

    seed: Seed
    device: Literal["cpu", "cuda", "auto"]
    workers: Workers
    launcher: Annotated[str, AfterValidator(_command)]
    checkpoint_seconds: NonNegative
    rows: KeptRows
    engine: Literal["local", "ray"]
    ray: RayCluster


class SeededSection(Section):
    """A section of a training that may have a seed of its own.

    Attributes:
        seed: of this training alone; None: ``base.seed``.
    """

    seed: Seed | None

    def seeded(self, base: Base) -> Base:
        """``base`` with the seed of this training."""
        return base if self.seed is None else Base.model_copy(base, update={"seed": self.seed})
