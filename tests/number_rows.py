"""A computation that costs nothing, in a module that processes and actors can import."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.rows.computation import Computation, Item, key_array
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.outputs import OutputError, UnusableItemError


@dataclass(frozen=True)
class Squares(Computation):
    """The square of a number, and the size of the batch that it was computed in."""

    name: ClassVar[str] = "squares"

    power: int = 2
    batch_size: int = 4
    log: Path | None = None

    def settings(self) -> Mapping[str, Any]:
        return {"power": self.power}

    def start(self) -> SquareWorker:
        return SquareWorker(self.power, self.log)


@dataclass(frozen=True)
class SquaresInProcesses(Squares):
    in_processes: ClassVar[bool] = True


@dataclass(frozen=True)
class SlowSquares(Squares):
    """So slow that something is under way whenever a worker is killed."""

    def start(self) -> SquareWorker:
        return SlowSquareWorker(self.power, self.log)


class SquareWorker:
    def __init__(self, power: int, log: Path | None) -> None:
        self._power = power
        self._log = log

    def prepare(self, value: bytes) -> int:
        if value == b"die":
            os._exit(3)
        if value == b"damaged":
            raise OutputError("damaged is damaged.", Path("damaged"))
        if value == b"unusable":
            raise UnusableItemError("it is no number.")
        if value == b"huge":
            raise MemoryError
        return int(value)

    def compute(self, prepared: Sequence[int]) -> NDArray[Any]:
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(f"{len(prepared)} {' '.join(map(str, prepared))}\n")
        return np.array(
            [(number**self._power, len(prepared)) for number in prepared],
            [("value", np.int64), ("batch", np.int32)],
        )


class SlowSquareWorker(SquareWorker):
    def prepare(self, value: bytes) -> int:
        time.sleep(0.02)
        return super().prepare(value)


class Numbers:
    """A source of numbers."""

    def __init__(self, numbers: Sequence[int | str]) -> None:
        self._numbers = [str(number).encode() for number in numbers]

    @property
    def keys(self) -> NDArray[np.void]:
        return key_array([content_digest(number) for number in self._numbers])

    def items(self, positions: NDArray[np.int64]) -> Iterator[Item]:
        assert (np.diff(positions) > 0).all()
        for position in positions.tolist():
            number = self._numbers[position]
            yield Item(content_digest(number), number.decode(), number)
