"""Runs in processes of their own, and such as are killed at random and started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from compositional_prompts.compute.training.checkpoints import Checkpoints

ROOT = Path(__file__).parents[1]


class Watched(Checkpoints):
    """A checkpoint after every step, each told of when it is written."""

    def __init__(self, folder: Path | None, tell: Callable[[Mapping[str, Any]], object]) -> None:
        super().__init__(folder, 0)
        self.tell = tell

    def save(self, state: Mapping[str, Any]) -> None:
        super().save(state)
        self.tell(state)


def script_environment() -> dict[str, str]:
    """What a script beside the tests is run with: our sources, the tests' modules, one thread."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def killed_at_random(
    run: Callable[[Callable[[], object]], object], steps: tuple[int, int], seed: int
) -> int:
    """Run in processes of their own, kill -9 each after some steps and a moment more, until one
    ends by itself.

    Args:
        run: what is run; calls the function it is given after every step.
        steps: least and most of them in a process.
        seed: of when they are killed.

    Returns:
        How many were killed.
    """
    rng = random.Random(seed)
    kills = 0
    while True:
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            status = 1
            with contextlib.suppress(Exception):
                run(partial(os.write, writing, b"."))
                status = 0
            os._exit(status)
        os.close(writing)
        ends = rng.randint(*steps)
        seen = 0
        while seen < ends and os.read(reading, 1):
            seen += 1
        time.sleep(rng.random() * 0.03)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        os.close(reading)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError("the run failed")
            return kills
        kills += 1
