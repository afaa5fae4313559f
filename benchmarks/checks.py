"""What the checks against damage, numbers that are not finite and wrong input cost a run.

In clones of the last commit, with the pretrained models of the finished run in the working folder,
the pipeline runs from `download` to the page, with all checks and with those left out that only
raise, in turns. Printed are the processor seconds of all processes of the runs, and, from inside
those with checks, how often each check was called and its own processor seconds.

Pretraining is not in it, and of the other trainings one epoch: a whole run takes some four times as
long, and the share of the checks is less.

    python benchmarks/checks.py [--rounds 2]
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from measuring.check_times import counted, hook
from measuring.cloned_project import ClonedProject


def run(folder: Path, finished: Path, left_out: bool) -> tuple[float, Counter[str], Counter[str]]:
    """Processor seconds of one run, and calls and seconds of each check."""
    folder.mkdir()
    project = ClonedProject(folder, finished)

    def shorten(document: dict[str, Any]) -> None:
        for stage in ("troika_train", "finetune"):
            document[stage]["epochs"] = 1

    project.edit(shorten)
    project.repro(hook(project.root / "src", folder / "times", left_out))
    calls: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    total = 0.0
    for record in counted(folder / "times"):
        total += record["seconds"]
        for name, (number, took) in record["checks"].items():
            calls[name] += number
            seconds[name] += took
    return total, calls, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path(), help="a finished run of the sample")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for number in range(args.rounds):
            scratch = Path(name, str(number))
            scratch.mkdir()
            total, calls, seconds = run(scratch / "with", args.run.resolve(), left_out=False)
            without, *_ = run(scratch / "without", args.run.resolve(), left_out=True)
            print(f"round {number + 1}: {total:.1f} s with the checks, {without:.1f} s without")
            for check, took in seconds.most_common():
                print(f"  {check}: {calls[check]} calls, {took:.3f} s, {took / total:.3%}")
            spent = sum(seconds.values())
            print(f"  together: {spent:.3f} s, {spent / total:.3%} of the run", flush=True)


if __name__ == "__main__":
    main()
