"""Ten kills of every stage, one after another: what each loses, and that the end is the same.

A project of some hundred drawn shoes runs once. Then each of its stages is started without outputs
and rows and killed with signal 9 at a random moment of the time that it took; its next start goes
on with what is kept of the one before, until it has been killed often enough. Whenever it ends by
itself, its outputs must be the same to the byte, and nothing may be left over.

What a kill loses is the time since something was kept: a row in the store, or a checkpoint. Before
anything is kept a stage starts (imports, models, data) and does what is kept at first.

    python tests/chaos/kill_series.py
    python tests/chaos/kill_series.py --stages infer@finetuned weights --kills 3

Pretrained models are those of a finished run (``make repro``), in ``models/`` or in ``--models``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [path for path in (str(ROOT / "tests"), str(ROOT / "src")) if path not in sys.path]

from chaos.small_project import LIGHT, SmallProject, StageCommand, given_models  # noqa: E402
from chaos.stage_process import Blow, become_reaper, import_stages  # noqa: E402

KEPT = ("rows", "scratch")
"""Folders of what one run of a stage leaves to the next."""

LONGER: Mapping[str, Any] = {
    "base.checkpoint_seconds": 2,
    "weights.clip": {"source": "pretrain", "name": "micro", "pretrained": None, "revision": None},
    "weights.troika_clip": {
        "source": "same", "name": None, "pretrained": None, "revision": None,
    },
    "weights.blip2": {"source": "pretrain", "name": "micro", "revision": None},
    "weights.pretrain.images": 1200,
    "enhance.stability_images": 200,
}  # fmt: skip
"""Parameters under which every training takes longer than what a kill may lose."""


class SeriesError(RuntimeError):
    """A stage fails by itself, without a kill."""


@dataclass
class Series:
    """What kills of a stage did.

    Attributes:
        stage: its name.
        seconds: of a run without kills.
        first: seconds of that run until something was kept, where something is.
        early: seconds from the start to each kill before anything was kept.
        late: seconds to each other kill since something was kept.
        faults: what was otherwise after a run that went on to its end.
    """

    stage: str
    seconds: float
    first: float | None
    early: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def row(self) -> str:
        """Of the table."""
        first = "" if self.first is None else f"{self.first:.1f}"
        early, late = (
            f"{len(times)} | {max(times):.1f}" if times else "0 | "
            for times in (self.early, self.late)
        )
        end = "same" if not self.faults else "; ".join(sorted(set(self.faults)))
        return f"| {self.stage} | {self.seconds:.1f} | {first} | {early} | {late} | {end} |"


HEADER = """\
| stage | s | first kept after | kills before that | after s, at most | later kills | \
s since something was kept, at most | bytes |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"""


def kept_at(root: Path) -> Iterator[float]:
    """When each file was last written of what is kept, in seconds since 1970."""
    for folder in KEPT:
        for path, _, names in os.walk(root / folder):
            for name in names:
                file = Path(path, name)
                try:
                    status = file.stat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                # The files that only say what a folder is for are written before anything is done.
                if file.suffix in (".rows", ".pt") and status.st_size:
                    yield status.st_mtime


def _watch(root: Path, found: Any) -> None:
    while not any(kept_at(root)):
        time.sleep(0.02)
    found.value = time.time()


def measured(project: SmallProject, command: StageCommand) -> Series:
    """A run without kills."""
    project.clear(command, rows=True)
    found = multiprocessing.Value("d", 0.0)
    watcher = multiprocessing.Process(target=_watch, args=(project.root, found), daemon=True)
    watcher.start()
    started = time.time()
    try:
        ended = project.run(command)
    finally:
        watcher.terminate()
        watcher.join()
    if ended.status:
        raise SeriesError(f"{command.name} fails without a kill:\n{ended.said(20)}")
    first = found.value - started if found.value else None
    return Series(command.name, ended.seconds, first)


def kill_series(
    project: SmallProject, command: StageCommand, kills: int, rng: random.Random
) -> Series:
    """Kill a stage so many times; it goes on each time with what is kept.

    Raises:
        SeriesError: it fails without a kill.
    """
    series = measured(project, command)
    project.clear(command, rows=True)
    while len(series.early) + len(series.late) < kills:
        started = time.time()
        blow = Blow(rng.uniform(0, series.seconds), signal.SIGKILL)
        ended = project.run(command, blow=blow)
        if ended.status == -signal.SIGKILL:
            hit = started + blow.seconds
            kept = max((at for at in kept_at(project.root) if at <= hit), default=0.0)
            late = kept > started
            (series.late if late else series.early).append(hit - max(kept, started))
            continue
        judge(project, command, series, ended.status)
        project.clear(command, rows=True)
    judge(project, command, series, project.run(command).status)
    project.restore()
    return series


def judge(project: SmallProject, command: StageCommand, series: Series, status: int) -> None:
    """After a run that was not killed."""
    if status:
        series.faults.append(f"exit status {status}")
    series.faults += [f"other bytes: {name}" for name in project.differences(command)]
    series.faults += [f"left over: {name}" for name in project.leftovers()]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="of each stage")
    parser.add_argument("--stages", nargs="+", help="only these, as infer@base")
    parser.add_argument("--images", type=int, default=800, help="that are drawn")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="of a finished run")
    parser.add_argument("--light", action="store_true", help="only the stages without a model")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    arguments = parser.parse_args()
    models = None if arguments.light else given_models(arguments.models)
    become_reaper()
    scripts = [path.stem for path in (ROOT / "stages").glob("*.py")]
    import_stages(scripts if models is not None else [*LIGHT])
    changes = {"download.sample.images": arguments.images}
    changes |= LONGER if models is not None else {}
    rng = random.Random(arguments.seed)
    faults = False
    with tempfile.TemporaryDirectory(prefix="kills-", dir=arguments.folder) as temporary:
        project = SmallProject(Path(temporary, "work"), models, changes)
        names = arguments.stages or list(project.stages)
        if unknown := sorted(set(names) - project.stages.keys()):
            sys.exit(f"no stage {unknown[0]}; there are {', '.join(project.stages)}")
        print(HEADER, flush=True)
        for name in names:
            series = kill_series(project, project.stages[name], arguments.kills, rng)
            faults = faults or bool(series.faults)
            print(series.row, flush=True)
    sys.exit(faults)


if __name__ == "__main__":
    main()
