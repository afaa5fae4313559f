"""A cold run of the sample, from an empty clone to the page: version 0.1.0 against this one.

Both versions are cloned, set up in an environment of their own, and run by ``dvc repro`` in turns,
each run in a fresh clone with an empty DVC cache. Installing is not part of a run. Printed are the
seconds of every stage and of the whole (what the stages' own clocks leave over is start-up and
DVC), processor seconds, the largest peak of memory of a process, and the ratio of the whole; then
processor seconds of ``compositional-prompts caption PHOTO`` with what the run has trained, the
median of five, nearly all of which is start-up.

``--seeds 1 2 7`` compares quality instead of time alone: both versions run once a seed, and every
figure of the metrics is given as a mean with the 95 % interval of the difference of the two
(Student's t over seeds, paired). Seeds are few, so the interval is wide: a figure is called worse
only where all of it lies on the wrong side of zero.

    python benchmarks/cold_run.py                         # two runs of each, an hour on two cores
    python benchmarks/cold_run.py --seeds 1 2 7           # three runs of each, one a seed
    python benchmarks/cold_run.py --here --runs 1         # this version alone

What is measured is what is committed: the working tree's changes are not in a clone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
BEFORE = "f870dd672fa5f72ff4e8b8ec66552efbde100227"  # version 0.1.0
QUALITY = ("scores.json", "enhance.json", "troika.json")
CAPTIONS = 5
# Student's t at 97.5 % by degrees of freedom.
STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}


@dataclass(frozen=True)
class Version:
    """A commit to run, and the Python that runs it."""

    name: str
    commit: str
    python: Path


@dataclass(frozen=True)
class ColdRun:
    """What one run took.

    Attributes:
        seconds: of the whole ``dvc repro``, wall time.
        processor_seconds: of all its processes.
        stages: seconds of each stage's own work, by name.
        peak_mib: largest peak of memory of a process.
        figures: numbers of the metrics, by file and key.
        caption_seconds: of the processor, to caption one photo.
    """

    seconds: float
    processor_seconds: float
    stages: Mapping[str, float]
    peak_mib: float
    figures: Mapping[str, float]
    caption_seconds: float


def git(*arguments: str) -> str:
    """The output of git in this repository."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def clone(commit: str, folder: Path) -> None:
    """A clone of this repository at ``commit`` that has nothing but what is committed."""
    git("clone", "--quiet", "--no-checkout", str(REPOSITORY), str(folder))
    command = ["git", "-C", str(folder), "checkout", "--quiet", "--detach", commit]
    subprocess.run(command, check=True)


def install(name: str, commit: str, folder: Path) -> Version:
    """An environment with the pinned dependencies of ``commit``."""
    source, environment = folder / f"{name}-source", folder / f"{name}-environment"
    clone(commit, source)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    start = time.perf_counter()
    command = [str(python), "-m", "pip", "install", "--quiet", "-c", "constraints.txt", "."]
    subprocess.run(command, cwd=source, check=True)
    print(f"{name}: installed in {time.perf_counter() - start:.0f} s", flush=True)
    return Version(name, commit, python)


def with_seed(params: str, seed: int) -> str:
    """The text of a params.yaml with another ``base.seed``.

    Raises:
        ValueError: it has no such line.
    """
    changed, count = re.subn(r"(?m)^(base:\n(?:  .*\n)*?  seed: )\d+", rf"\g<1>{seed}", params)
    if count != 1:
        raise ValueError("params.yaml: base.seed was not found")
    return changed


def numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """All numbers of nested dictionaries, named by their path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{name}.{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def caption_seconds(python: Path, project: Path, environment: Mapping[str, str]) -> float:
    """Median processor seconds of the command that captions one photo.

    Raises:
        RuntimeError: it fails.
    """
    photo = project / "one.jpg"
    Image.effect_noise((160, 120), 60).convert("RGB").save(photo)
    command = [str(python), "-m", "compositional_prompts", "caption"]
    run = partial(subprocess.run, cwd=project, env=environment, capture_output=True, text=True)
    # Version 0.1.0 knew of nothing else.
    only = ["--caption-only"] if "--caption-only" in run([*command, "--help"]).stdout else []
    took = []
    for _ in range(CAPTIONS):
        before = processor_seconds()
        done = run([*command, *only, str(photo)])
        took.append(processor_seconds() - before)
        if done.returncode or not done.stdout.startswith("A photo of "):
            raise RuntimeError(f"no caption of {photo}\n{done.stdout}\n{done.stderr}")
    return statistics.median(took)


def processor_seconds() -> float:
    """Of all processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_cold(version: Version, folder: Path, seed: int | None, keep: Path | None = None) -> ColdRun:
    """Run the sample of ``version`` in a fresh clone, which is removed afterwards.

    Args:
        version: what to run.
        folder: where to clone it to.
        seed: ``base.seed``, or as it is committed.
        keep: where the clone is moved to with its results, in place of what is there.

    Raises:
        RuntimeError: the run failed; its output is in the message.
    """
    project = folder / "run"
    clone(version.commit, project)
    if seed is not None:
        path = project / "params.yaml"
        path.write_text(with_seed(path.read_text(), seed))
    environment = {
        **os.environ,
        "PATH": f"{version.python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
    }
    before = processor_seconds()
    start = time.perf_counter()
    # -f: the committed lock would else let DVC look for outputs of the same parameters.
    command = [str(version.python), "-m", "dvc", "repro", "--force"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    processor = processor_seconds() - before
    if done.returncode:
        raise RuntimeError(f"{version.name}: dvc repro failed\n{done.stdout}\n{done.stderr}")
    # Version 0.1.0 had them among its metrics.
    written = [*(project / "timing").glob("*.json"), *(project / "metrics/timing").glob("*.json")]
    timings = [json.loads(path.read_text()) for path in written]
    figures: dict[str, float] = {}
    for name in QUALITY:
        metrics = json.loads((project / "metrics" / name).read_text())
        figures |= dict(numbers(metrics, Path(name).stem))
    captioned = caption_seconds(version.python, project, environment)
    if keep is None:
        shutil.rmtree(project)
    else:
        shutil.rmtree(keep, ignore_errors=True)
        shutil.move(project, keep)
    return ColdRun(
        seconds=seconds,
        processor_seconds=processor,
        stages={timing["stage"]: timing["seconds"] for timing in timings},
        peak_mib=max(
            max(timing["peak_memory_mib"], timing["peak_worker_memory_mib"]) for timing in timings
        ),
        figures=figures,
        caption_seconds=captioned,
    )


def print_times(runs: Mapping[str, Sequence[ColdRun]]) -> None:
    """A row a stage, a column a version: medians, and the ratio of the first to the last."""
    versions = list(runs)
    stages = sorted({stage for cold in runs.values() for run in cold for stage in run.stages})

    def row(name: str, values: Sequence[float], form: str) -> None:
        ratio = f"{values[0] / values[-1]:>8.2f}" if len(values) > 1 and values[-1] else ""
        print(f"{name:32}" + "".join(f"{value:>12{form}}" for value in values) + ratio)

    def median(version: str, figure: Callable[[ColdRun], float]) -> float:
        return statistics.median(figure(run) for run in runs[version])

    print(f"\n{'median, s':32}" + "".join(f"{version:>12}" for version in versions) + "   ratio")
    for stage in stages:
        row(stage, [median(v, lambda run: run.stages.get(stage, 0)) for v in versions], ".1f")  # noqa: B023
    row(
        "start-up and DVC",
        [median(v, lambda run: run.seconds - sum(run.stages.values())) for v in versions],
        ".1f",
    )
    row("whole", [median(v, lambda run: run.seconds) for v in versions], ".1f")
    row("processor", [median(v, lambda run: run.processor_seconds) for v in versions], ".1f")
    row(
        "one photo captioned, processor",
        [median(v, lambda run: run.caption_seconds) for v in versions],
        ".1f",
    )
    row("peak memory, MiB", [median(v, lambda run: run.peak_mib) for v in versions], ".0f")


def print_quality(before: Sequence[ColdRun], here: Sequence[ColdRun]) -> None:
    """Every figure that both have: means, and the paired interval of the difference."""
    names = [name for name in before[0].figures if name in here[0].figures]
    factor = STUDENT_T[len(before) - 1] / math.sqrt(len(before))
    print(f"\n{'':64}{'before':>9}{'here':>9}{'difference, 95 %':>28}")
    for name in names:
        pairs = [
            (b.figures[name], h.figures[name])
            for b, h in zip(before, here, strict=True)
            if name in b.figures and name in h.figures
        ]
        if len(pairs) < len(before):
            continue
        differences = [h - b for b, h in pairs]
        mean, half = statistics.mean(differences), factor * statistics.stdev(differences)
        first, second = (statistics.mean(values) for values in zip(*pairs, strict=True))
        print(
            f"{name:64}{first:>9.3f}{second:>9.3f}{mean:>10.3f} ({mean - half:.3f} to "
            f"{mean + half:.3f}){'  lower' if mean + half < 0 else ''}"
        )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", default=BEFORE, help="commit or tag of the other version")
    parser.add_argument("--here", action="store_true", help="this version alone")
    parser.add_argument("--runs", type=int, default=2, help="of each version")
    parser.add_argument("--seeds", type=int, nargs="+", help="one run of each version a seed")
    parser.add_argument(
        "--python",
        type=Path,
        nargs="+",
        default=[],
        help="of an environment for both, or of one for each, the other version's first",
    )
    parser.add_argument("--keep", type=Path, help="for the clone of this version's last run")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    arguments = parser.parse_args()
    if arguments.seeds is not None and not 2 <= len(arguments.seeds) <= 8:
        parser.error("--seeds takes 2 to 8 seeds")
    seeds: list[int | None] = arguments.seeds or [None] * arguments.runs
    commits = {"here": git("rev-parse", "HEAD")}
    if not arguments.here:
        commits = {"before": git("rev-parse", f"{arguments.before}^{{commit}}"), **commits}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        pythons = [python.absolute() for python in arguments.python[-len(commits) :]]
        if len(pythons) == 1:
            pythons *= len(commits)
        versions = [
            Version(name, commit, pythons[number]) if pythons else install(name, commit, folder)
            for number, (name, commit) in enumerate(commits.items())
        ]
        runs: dict[str, list[ColdRun]] = {version.name: [] for version in versions}
        for number, seed in enumerate(seeds):
            # In turns, the first one changing: what the machine does meanwhile hits both.
            for version in versions if number % 2 == 0 else versions[::-1]:
                keep = arguments.keep if version.name == "here" else None
                run = run_cold(version, folder, seed, keep)
                runs[version.name].append(run)
                print(
                    f"{version.name} {version.commit[:9]}: {run.seconds:.1f} s, "
                    f"{run.processor_seconds:.1f} s of processor",
                    flush=True,
                )
    print_times(runs)
    if arguments.seeds and not arguments.here:
        print_quality(runs["before"], runs["here"])


if __name__ == "__main__":
    main()
