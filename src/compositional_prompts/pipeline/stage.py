"""What every stage script does around its one call: arguments and timing."""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.pipeline.error_messages import argument_paths
from compositional_prompts.pipeline.terminal_text import TerminalFormatter

log = logging.getLogger(__name__)

_CLOCK = 0.02
"""Seconds that the clock of file systems lags behind."""

TIMING = Path("timing")
"""Where every stage leaves what its last run took; neither git nor DVC keeps it."""


def path_arguments(
    description: str | None, *names: str, optional: tuple[str, ...] = ()
) -> argparse.Namespace:
    """Parse ``--name PATH`` for every name (required, unless ``optional``) and ``--params``."""
    parser = argparse.ArgumentParser(description=description)
    for name in (*names, *optional):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, dest=name, type=Path, required=name in names)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


@dataclass
class StageRun:
    """A stage under way.

    Attributes:
        rows: how many it went through: to be set.
        computed: how many of them were computed now and not before, where that is known: to be set.
        precision: what it computes in, where that is chosen.
    """

    rows: int = 0
    computed: int | None = None
    precision: str | None = None

    def compute_in(self, precision: str, reason: str) -> None:
        """Say in the log, and later in the timing, what it computes in."""
        self.precision = precision
        log.info("computing in %s: %s", precision, reason)


def _peak_mib(who: int) -> int:
    """The most memory that a process has held: bytes to macOS, KiB to other systems."""
    unit = 1 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(who).ru_maxrss * unit / 2**20)


def log_as(name: str) -> None:
    """Write what this process logs to standard error, as a stage's."""
    # The root stays at WARNING: open_clip and transformers tell the root logger all they do.
    handler = logging.StreamHandler()
    handler.setFormatter(TerminalFormatter(f"{name}: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("compositional_prompts").setLevel(logging.INFO)


@contextmanager
def run_stage(name: str) -> Iterator[StageRun]:
    """Say what is done and what was written, and measure it.

    Wall time (s), rows, rows/s and peak memory (MiB) go to ``timing/NAME.json`` as JSON, which is
    no output: of two runs with equal results it differs. Where this process computed on a GPU, the
    peak of what it had allocated there is among it. Nothing is written when the block fails.
    """
    log_as(name)
    log.info("%s", _purpose())
    run = StageRun()
    started, start = time.time(), time.perf_counter()
    yield run
    seconds = time.perf_counter() - start
    record: dict[str, str | float] = {
        "stage": name,
        "seconds": round(seconds, 2),
        "rows": run.rows,
        "rows_per_second": round(run.rows / seconds, 2),
        "peak_memory_mib": _peak_mib(resource.RUSAGE_SELF),
        "peak_worker_memory_mib": _peak_mib(resource.RUSAGE_CHILDREN),
    }
    if run.computed is not None:
        record["computed"] = run.computed
    if run.precision is not None:
        record["precision"] = run.precision
    # Not imported: the stages that do without torch start without it.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        peaks = [
            torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())
        ]
        record["peak_device_memory_mib"] = round(max(peaks) / 2**20)
    with atomic_file(TIMING / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    written = ", ".join(map(str, _written_since(started)))
    log.info("done in %s%s", _spoken(seconds), f"; wrote {written}" if written else "")


def _purpose() -> str:
    """What a stage's script says that it does: ``Stage NAME: what.``"""
    document = (sys.modules["__main__"].__doc__ or "").strip().partition("\n")[0]
    return document.partition(": ")[2] or document or "started"


def _written_since(started: float) -> list[Path]:
    """The paths among a script's arguments that were written, outermost folders left out."""
    found = [
        path
        for path in argument_paths(sys.argv[1:])
        if path.exists() and path.stat().st_mtime >= started - _CLOCK
    ]
    return [path for path in found if not any(path in other.parents for other in found)]


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
