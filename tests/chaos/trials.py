"""One trial of each kind: something is done to the small project, and what follows is judged."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from chaos.made_inputs import ARCHIVES, TABLES, Written, random_photo
from chaos.mutations import Harm, harmed, random_harms, smallest
from chaos.small_disk import SmallDisk
from chaos.small_project import LIGHT, ROOT, SmallProject, StageCommand
from chaos.stage_process import Blow, Ended, run_stage

PHOTOS_AT_ONCE = 60
FRESH_STARTS = 0.3
"""Of stages that start in a second, so many are hit as processes that import what they need."""

REFUSED = "of tables, models and archives refused"
MIB = 2**20
DATA_MIB = 6 * 1024
"""Memory that a process may take."""

STATUS = {signal.SIGINT: (130, -signal.SIGINT), signal.SIGTERM: (143, -signal.SIGTERM)}


@dataclass(frozen=True)
class Failure:
    """What did not hold.

    Attributes:
        what: in a few words; equal ones are told once.
        smallest: the smallest input that shows it.
        said: the last lines of what the stage wrote.
    """

    what: str
    smallest: str
    said: str = ""


@dataclass
class Outcome:
    """What a trial tried: how many of what, and which of them failed."""

    tried: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        self.tried[what] = self.tried.get(what, 0) + number

    def fail(self, what: str, smallest: str, said: str = "") -> None:
        self.failures.append(Failure(what, smallest, said))


@dataclass
class Bench:
    """Where trials are made.

    Attributes:
        project: the small project.
        disk: the file system it lies on, if that can be made small.
        folder: for inputs that people bring; each trial finds it empty.
    """

    project: SmallProject
    disk: SmallDisk | None
    folder: Path

    def empty_folder(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        shutil.copy(ROOT / "dvc.yaml", self.folder)
        return self.folder

    def choose(self, rng: random.Random) -> StageCommand:
        return rng.choice(list(self.project.stages.values()))


def unlike_a_message(ended: Ended, name: str | None = None) -> str | None:
    """What is wrong with how a stage failed; None where it is as it should be."""
    if ended.hung:
        return "hangs"
    if ended.left:
        return "leaves processes running"
    if ended.traceback:
        return "a traceback"
    if ended.status < 0:
        return f"ends by signal {-ended.status}"
    if ended.status not in (0, 1):
        return f"exit status {ended.status}"
    if ended.status and name is not None and name not in ended.text:
        return "a message that does not name the file"
    return None


def _resumed(
    bench: Bench, command: StageCommand, outcome: Outcome, after: str, told: str = ""
) -> None:
    """Run a stage once more: the same bits as at first, and nothing besides."""
    ended = bench.project.run(command)
    if ended.status:
        outcome.fail(f"{command.name} does not go on", after, ended.said())
    elif differences := bench.project.differences(command):
        outcome.fail(f"{command.name}: other bits", f"{after}: {', '.join(differences[:5])}", told)
    if left := bench.project.leftovers():
        outcome.fail(f"{command.name}: left over", f"{after}: {', '.join(left[:5])}", told)


def killed(bench: Bench, rng: random.Random) -> Outcome:
    """Signal 9 at random moments, to the stage alone or to all its processes, then once more."""
    outcome = Outcome()
    command = bench.choose(rng)
    rows = rng.random() < 0.7
    bench.project.clear(command, rows)
    told = []
    for _ in range(rng.randint(1, 3)):
        moment = rng.uniform(0, 0.95 * bench.project.seconds[command.name])
        blow = Blow(moment, signal.SIGKILL, group=rng.random() < 0.3)
        ended = bench.project.run(command, blow=blow)
        if ended.left:
            outcome.fail(f"{command.name}: processes go on", f"killed after {moment:.2f} s",
                         "\n".join(ended.left))  # fmt: skip
        if ended.status == -signal.SIGKILL and not ended.hung:
            outcome.count("kills")
            told.append(f"{moment:.2f} s{' with all its processes' if blow.group else ''}")
        elif problem := unlike_a_message(ended):
            outcome.fail(f"{command.name} after a kill: {problem}", str(told), ended.said())
        if ended.status == 0:
            bench.project.seconds[command.name] = ended.seconds  # the machine is less busy now
            break
    after = f"{command.name}{' without kept rows' if rows else ''} killed after {', '.join(told)}"
    _resumed(bench, command, outcome, after)
    return outcome


def interrupted(bench: Bench, rng: random.Random) -> Outcome:
    """SIGTERM or SIGINT: one line, nothing left behind, and the same bits the next time."""
    outcome = Outcome()
    command = bench.choose(rng)
    rows = rng.random() < 0.7
    bench.project.clear(command, rows)
    number = rng.choice([signal.SIGTERM, signal.SIGINT])
    moment = rng.uniform(0.05, 1.0) * bench.project.seconds[command.name]
    fresh = command.name in LIGHT and rng.random() < FRESH_STARTS
    ended = bench.project.run(command, blow=Blow(moment, number), fresh=fresh)
    after = f"{command.name}{', started anew,' * fresh} with {number.name} after {moment:.2f} s"
    if ended.status:
        outcome.count("signals")
        if ended.status not in STATUS[number]:
            outcome.fail(f"{number.name}: exit status {ended.status}", after, ended.said())
        if ended.traceback:
            outcome.fail(f"{number.name}: a traceback", after, ended.said(12))
        if ended.left:
            outcome.fail(f"{number.name}: processes go on", after, "\n".join(ended.left))
        # What a stage that goes on has done so far is meant to stay: scratch.
        left = [name for name in bench.project.leftovers() if not name.startswith("scratch")]
        if left:
            outcome.fail(f"{number.name}: left over", f"{after}: {', '.join(left[:5])}")
    _resumed(bench, command, outcome, after)
    return outcome


def worker_killed(bench: Bench, rng: random.Random) -> Outcome:
    """Signal 9 to a worker: the same bits, or a message; and the same bits the next time."""
    outcome = Outcome()
    names = [name for name in ("download", "colors", "report") if name in bench.project.stages]
    command = bench.project.stages[rng.choice(names)]
    bench.project.clear(command, rows=True)
    moment = rng.uniform(0.2, 1.0) * bench.project.seconds[command.name]
    ended = bench.project.run(command, blow=Blow(moment, signal.SIGKILL, worker=True))
    outcome.count("dead workers")
    after = f"a worker of {command.name} killed after {moment:.2f} s"
    if problem := unlike_a_message(ended, "worker process"):
        outcome.fail(f"a dead worker of {command.name}: {problem}", after, ended.said())
    if ended.status == 0 and bench.project.differences(command):
        outcome.fail(f"a dead worker of {command.name}: other bits", after)
    _resumed(bench, command, outcome, after, ended.said())
    return outcome


def _harmed_input(
    bench: Bench, command: StageCommand, name: str, harms: Sequence[Harm]
) -> tuple[str | None, Ended]:
    """Run a stage on a damaged input: what is wrong with how that went."""
    project = bench.project
    path = project.root / name
    content = (project.pristine / name).read_bytes()
    changed = harmed(content, harms)
    project.clear(command, rows=not name.startswith("rows"))
    path.write_bytes(changed)
    ended = project.run(command)
    problem = unlike_a_message(ended, path.name)
    if problem is None and ended.status == 0 and project.differences(command):
        problem = "other results without a word"
    elif problem is None and (left := project.leftovers()):
        problem = f"left over: {', '.join(left[:3])}"
    project.restore()
    return problem, ended


def file_harmed(bench: Bench, rng: random.Random) -> Outcome:
    """A damaged table, model, row or vector between stages: refused by its name, or no matter."""
    outcome = Outcome()
    command = bench.choose(rng)
    names = [
        str(file.relative_to(bench.project.pristine))
        for entry in (*command.inputs, "rows")
        for file in _files(bench.project.pristine / entry)
        if file.name not in ("in-use", "README.md")
    ] or ["params.yaml"]
    name = rng.choice(names)
    harms = random_harms(rng)
    outcome.count("tables and models")
    problem, ended = _harmed_input(bench, command, name, harms)
    outcome.count(REFUSED, ended.status == 1)
    if problem is not None:
        few = smallest(harms, lambda some: _harmed_input(bench, command, name, some)[0] == problem)
        what = f"{command.script} on a damaged {Path(name).suffix or name}: {problem}"
        outcome.fail(what, f"{name}: {'; '.join(map(str, few))}", ended.said())
    return outcome


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())


def _download(folder: Path, variables: Mapping[str, str], section: Mapping[str, Any]) -> Ended:
    """Run the stage ``download`` in a folder of inputs."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["download"]["max_rejected"] = {"share": 1.0, "count": 10**6}
    for name, value in section.items():
        present = document["download"].get(name)
        document["download"][name] = present | value if isinstance(present, dict) else value
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    shutil.rmtree(folder / "rows", ignore_errors=True)
    words = "--catalog data/catalog --truth data/truth.parquet --rejected data/rejected.parquet "
    words += "--listed-pairs data/pairs.parquet --metrics metrics/download.json"
    script = str(ROOT / "stages" / "download.py")
    return run_stage([script, *words.split()], folder, variables)


def photos_harmed(bench: Bench, rng: random.Random) -> Outcome:
    """Damaged photos: taken or set aside, and what is taken can be looked at by the next stage."""
    outcome = Outcome()
    folder = bench.empty_folder()
    photos: dict[str, tuple[bytes, list[Harm]]] = {}
    for number in range(PHOTOS_AT_ONCE):
        ending, content = random_photo(rng)
        photos[f"{number:03d}-{ending}"] = content, random_harms(rng)
    outcome.count("images", len(photos))

    def problem(names: Sequence[str]) -> str | None:
        shutil.rmtree(folder / "photos", ignore_errors=True)
        (folder / "photos").mkdir()
        shutil.copy(next(iter(ROOT.glob("docs/images/*.png"))), folder / "photos" / "whole.png")
        for name in names:
            content, harms = photos[name]
            (folder / "photos" / name).write_bytes(harmed(content, harms))
        ended = _download(folder, bench.project.variables, {"dataset": "folder", "folder": {}})
        said.append(ended.said())
        wrong = unlike_a_message(ended)
        if wrong or ended.status:
            return f"download: {wrong or 'fails'}"
        for script, words in _looking(bench.project):
            ended = run_stage([script, *words], folder, bench.project.variables)
            said.append(ended.said())
            wrong = unlike_a_message(ended)
            if wrong or ended.status:
                return f"{Path(script).stem}: {wrong or 'fails on what download took'}"
        return None

    said: list[str] = []
    found = problem(list(photos))
    if found is None:
        return outcome
    words = said[-1]
    guilty = _fewest(list(photos), lambda names: problem(names) == found)
    kept = []
    for name in guilty:
        content, harms = photos[name]
        kept.append(f"{name}: {'; '.join(map(str, harms))}, {len(content)} bytes")
    outcome.fail(found, "; ".join(kept[:3]), words)
    return outcome


def _looking(project: SmallProject) -> Iterator[tuple[str, list[str]]]:
    """The next stages that look at photos: their scripts and arguments."""
    if "clip_embed" in project.stages:
        words = f"--catalog data/catalog --clip {project.root}/models/clip"
        words += " --images data/vectors --words data/words.parquet"
        yield str(ROOT / "stages" / "clip_embed.py"), words.split()
    words = "--catalog data/catalog --truth data/truth.parquet --colors data/colors"
    yield str(ROOT / "stages" / "colors.py"), words.split()


def _fewest(items: list[str], fails: Callable[[list[str]], bool]) -> list[str]:
    """Halves that fail still, until none does."""
    while len(items) > 1:
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            if fails(half):
                items = half
                break
        else:
            break
    return items


def _brought(
    bench: Bench, rng: random.Random, what: str, kinds: Mapping[str, tuple[str, Written]]
) -> Outcome:
    outcome = Outcome()
    name = rng.choice(list(kinds))
    dataset, write = kinds[name]
    harms = random_harms(rng)
    outcome.count(what)

    def problem(some: Sequence[Harm]) -> tuple[str | None, Ended]:
        folder = bench.empty_folder()
        section = {"dataset": dataset, dataset: write(folder, name)}
        file = min(folder.rglob(name))
        file.write_bytes(harmed(file.read_bytes(), some))
        ended = _download(folder, bench.project.variables, section)
        return unlike_a_message(ended, file.name), ended

    found, ended = problem(harms)
    outcome.count(REFUSED, ended.status == 1)
    if found is not None:
        few = smallest(harms, lambda some: problem(some)[0] == found)
        outcome.fail(
            f"download of {dataset} with a damaged {name}: {found}",
            "; ".join(map(str, few)),
            ended.said(),
        )
    return outcome


def table_harmed(bench: Bench, rng: random.Random) -> Outcome:
    """A damaged table that somebody brings."""
    return _brought(bench, rng, "tables and models", TABLES)


def archive_harmed(bench: Bench, rng: random.Random) -> Outcome:
    """A damaged archive, or a pickle in one."""
    return _brought(bench, rng, "archives", ARCHIVES)


def disk_full(bench: Bench, rng: random.Random) -> Outcome:
    """Too little room for what a stage writes: said, nothing left over, and the same bits later."""
    outcome = Outcome()
    command = bench.choose(rng)
    project = bench.project
    written = sum(
        file.stat().st_size for path in command.outputs for file in _files(project.root / path)
    )
    project.clear(command, rows=True)
    room = int(rng.uniform(0, 1.5 * written))
    after = f"{command.name} with room for {room} of {written} bytes"
    if bench.disk is None:
        ended = project.run(command, limits={resource.RLIMIT_FSIZE: room})
        after += " (of a file: no small file system)"
    else:
        with bench.disk.filled(room):
            ended = project.run(command)
    if ended.status:
        outcome.count("full disks")
        if problem := unlike_a_message(ended):
            outcome.fail(f"a full disk in {command.name}: {problem}", after, ended.said())
        elif bench.disk is not None and "disk is full" not in ended.text:
            outcome.fail(f"a full disk in {command.name}: not said", after, ended.said())
        left = [name for name in project.leftovers() if not name.startswith("scratch")]
        if left:
            outcome.fail(f"a full disk in {command.name}: left over", f"{after}: {left[:5]}")
    _resumed(bench, command, outcome, after, ended.said())
    return outcome


Trial = Callable[[Bench, random.Random], Outcome]


def seconds_of(trial: Trial, bench: Bench, rng: random.Random) -> tuple[Outcome, float]:
    """What came of a trial, and how long it took; the project is put right after it."""
    started = time.monotonic()
    try:
        return trial(bench, rng), time.monotonic() - started
    finally:
        bench.project.restore()
