"""Everything that may go wrong, at random, on a small project, for some minutes: ``make chaos``.

Stages, and DVC, are killed with signal 9 at random moments and interrupted by SIGTERM and SIGINT;
their workers die; photos, tables, models, rows and archives are damaged; parameters are odd; the
disk is full; a remote has a flipped bit. After each of these the run goes on to the same bits, with
nothing left over and no process left running, or ends in one message that names the file, without a
traceback.

    python tests/chaos/campaign.py --minutes 60
    python tests/chaos/campaign.py --seed 1234 --trial 56    # that trial once more

Pretrained models are those of a finished run (``make repro``), in ``models/`` or in ``--models``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import secrets
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [path for path in (str(ROOT / "tests"), str(ROOT / "src")) if path not in sys.path]

from chaos.dvc_trials import dvc_killed, remote_damaged  # noqa: E402
from chaos.parameter_trials import parameters_odd  # noqa: E402
from chaos.small_disk import small_disk  # noqa: E402
from chaos.small_project import LIGHT, SmallProject, given_models  # noqa: E402
from chaos.stage_process import become_reaper, import_stages  # noqa: E402
from chaos.trials import (  # noqa: E402
    Bench,
    Outcome,
    Trial,
    archive_harmed,
    disk_full,
    file_harmed,
    interrupted,
    killed,
    photos_harmed,
    seconds_of,
    table_harmed,
    worker_killed,
)

KINDS: Mapping[str, tuple[Trial, int]] = {
    "kill": (killed, 24),
    "signal": (interrupted, 8),
    "worker": (worker_killed, 4),
    "photos": (photos_harmed, 12),
    "file": (file_harmed, 100),
    "table": (table_harmed, 30),
    "archive": (archive_harmed, 12),
    "parameters": (parameters_odd, 6),
    "disk": (disk_full, 6),
    "dvc": (dvc_killed, 2),
    "remote": (remote_damaged, 1),
}
"""The trials, and how often each comes among the others."""

SHOWN_LINES = 8


def kind_of(rng: random.Random, kinds: Sequence[str]) -> str:
    return rng.choices(kinds, [KINDS[kind][1] for kind in kinds])[0]


def trial(bench: Bench, seed: int, number: int, kinds: Sequence[str]) -> dict[str, Any]:
    """Make one trial; all that is random about it follows from the seed and its number."""
    rng = random.Random(f"{seed}:{number}")
    kind = kind_of(rng, kinds)
    try:
        outcome, seconds = seconds_of(KINDS[kind][0], bench, rng)
    except Exception:
        outcome, seconds = Outcome(), 0.0
        outcome.fail("the campaign itself fails", kind, traceback.format_exc())
    return {
        "number": number, "kind": kind, "seconds": seconds, "tried": outcome.tried,
        "failures": [asdict(failure) for failure in outcome.failures],
    }  # fmt: skip


def _work(
    folder: Path, models: Path | None, seed: int, numbers: Iterator[int], until: float,
    kinds: Sequence[str], results: Any,
) -> None:  # fmt: skip
    """Trials in a process of its own, on a project of its own, until time is up."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder.mkdir()
    disk = small_disk(folder)
    become_reaper()
    scripts = [path.stem for path in (ROOT / "stages").glob("*.py")]
    import_stages(scripts if models is not None else [*LIGHT])
    try:
        changes = {} if models is not None else {"download.sample.images": 24, "base.workers": 1}
        project = SmallProject(folder / "work", models, changes)
    except Exception:
        results.put({"error": traceback.format_exc()})
        return
    results.put({"ready": sum(project.seconds.values()), "disk": disk is not None})
    bench = Bench(project, disk, folder / "brought")
    for number in numbers:
        if time.time() >= until:
            break
        results.put(trial(bench, seed, number, kinds))
    results.put({"end": True})


def run_campaign(
    folder: Path, models: Path | None, seed: int, numbers: Sequence[Iterator[int]],
    minutes: float, kinds: Sequence[str],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """What came of every trial, as it ends; a process for each of ``numbers``.

    Raises:
        RuntimeError: the small project does not run.
    """
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    until = time.time() + 60 * minutes
    workers = [
        context.Process(
            target=_work, args=(folder / str(place), models, seed, some, until, kinds, results)
        )
        for place, some in enumerate(numbers)
    ]
    for worker in workers:
        worker.start()
    try:
        running = len(workers)
        while running:
            record = results.get()
            if "error" in record:
                raise RuntimeError(record["error"])
            running -= "end" in record
            if "number" in record or "ready" in record:
                yield record
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def print_table(records: Sequence[Mapping[str, Any]]) -> None:
    """Tried and failed of each kind, and of every different failure the smallest input."""
    tried: Counter[str] = Counter()
    trials: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    first: dict[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {}
    seen: Counter[str] = Counter()
    for record in records:
        tried.update(record["tried"])
        trials[record["kind"]] += 1
        seconds[record["kind"]] += record["seconds"]
        failed[record["kind"]] += bool(record["failures"])
        for failure in record["failures"]:
            seen[failure["what"]] += 1
            first.setdefault(failure["what"], (record, failure))
    print("\n| trials | tried | survived | s each |\n| --- | ---: | ---: | ---: |")
    for kind in KINDS:
        if count := trials[kind]:
            print(f"| {kind} | {count} | {count - failed[kind]} | {seconds[kind] / count:.1f} |")
    print("\nIn them: " + ", ".join(f"{count:,} {what}" for what, count in sorted(tried.items())))
    for what, (record, failure) in sorted(first.items()):
        print(f"\n{seen[what]} x {what} (trial {record['number']})\n    {failure['smallest']}")
        for line in failure["said"].splitlines()[-SHOWN_LINES:]:
            print(f"    | {line[:300]}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="until no trial begins")
    parser.add_argument("--seed", type=int, help="of all that is random; printed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at once")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="of a finished run")
    parser.add_argument("--light", action="store_true", help="only the stages without a model")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), help="only these trials")
    parser.add_argument("--trial", type=int, help="only the trial of this number")
    parser.add_argument("--trials", type=int, help="no more than so many")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    parser.add_argument("--records", type=Path, help="JSON Lines of what came of each trial")
    arguments = parser.parse_args()
    models = None if arguments.light else given_models(arguments.models)
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    kinds = arguments.kinds or list(KINDS)
    jobs = 1 if arguments.trial is not None else max(1, arguments.jobs)
    last = arguments.trials if arguments.trials is not None else 10**9
    numbers = (
        [iter([arguments.trial])]
        if arguments.trial is not None
        else [iter(range(place, last, jobs)) for place in range(jobs)]
    )
    print(f"seed {seed}", flush=True)
    records = []
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=arguments.folder) as temporary:
        for record in run_campaign(
            Path(temporary), models, seed, numbers, arguments.minutes, kinds
        ):
            if "ready" in record:
                print(f"the small project ran in {record['ready']:.0f} s" + (
                    "" if record["disk"] else "; no small file system may be mounted here"
                ), flush=True)  # fmt: skip
                continue
            records.append(record)
            if arguments.records is not None:
                with arguments.records.open("a") as file:
                    file.write(f"{json.dumps(record)}\n")
            for failure in record["failures"]:
                print(f"trial {record['number']}: {failure['what']}", flush=True)
    print_table(records)
    sys.exit(any(record["failures"] for record in records))


if __name__ == "__main__":
    main()
