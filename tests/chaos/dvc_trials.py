"""DVC killed while it runs a stage, and a remote of which a bit has flipped."""

from __future__ import annotations

import random
import runpy
import shutil
import signal
import sys
from pathlib import Path

from chaos.small_project import SmallProject
from chaos.stage_process import Blow, Ended, run_process
from chaos.trials import Bench, Outcome

START_SECONDS = 6.0
"""What DVC takes beside the stage that it runs, as a rule."""

REMOTE = "store"


def dvc(project: SmallProject, root: Path, *words: str, blow: Blow | None = None) -> Ended:
    """Run DVC in ``root``, in a fork of this process, which has imported it."""

    def work() -> None:
        # The stage's own Python starts anew.
        sys.argv = ["dvc", *words]
        runpy.run_module("dvc", run_name="__main__", alter_sys=True)

    return run_process(work, root, project.variables, blow=blow)


class DvcError(RuntimeError):
    """A command of DVC that belongs to no trial failed."""


def _must(ended: Ended, what: str) -> None:
    if ended.status:
        raise DvcError(f"{what}:\n{ended.said(20)}")


def _recorded(bench: Bench) -> None:
    """Have DVC know what the stages wrote, once."""
    project = bench.project
    if (project.root / "dvc.lock").exists():
        return
    _must(dvc(project, project.root, "commit", "--force"), "dvc commit")
    project.project.commit("Results")


def dvc_killed(bench: Bench, rng: random.Random) -> Outcome:
    """DVC and its stage are killed at once; run again, after git has put a torn lock right."""
    outcome = Outcome()
    project = bench.project
    _recorded(bench)
    command = bench.choose(rng)
    shutil.rmtree(project.root / "rows", ignore_errors=True)
    moment = rng.uniform(0, project.seconds[command.name] + START_SECONDS)
    blow = Blow(moment, signal.SIGKILL, group=True)
    words = ("repro", "--force", "--single-item", command.name)
    if dvc(project, project.root, *words, blow=blow).status == -signal.SIGKILL:
        outcome.count("kills of DVC")
    after = f"dvc repro of {command.name} killed after {moment:.2f} s"
    ended = dvc(project, project.root, *words)
    if ended.status and "dvc.lock" in ended.text:
        outcome.count("dvc.lock torn, put right by git")
        project.project.git("checkout", "dvc.lock")
        ended = dvc(project, project.root, *words)
    if ended.status:
        outcome.fail("DVC does not go on", after, ended.said(12))
    elif differences := project.differences(command):
        outcome.fail(f"{command.name}: other bits", f"{after}: {', '.join(differences[:5])}")
    if left := project.leftovers():
        outcome.fail(f"{command.name}: left over", f"{after}: {', '.join(left[:5])}")
    project.project.git("checkout", "dvc.lock")
    return outcome


def remote_damaged(bench: Bench, rng: random.Random) -> Outcome:
    """A flipped bit in a remote that DVC verifies: what is pulled is refused."""
    outcome = Outcome()
    project = bench.project
    _recorded(bench)
    store = project.root.parent / REMOTE
    if not store.exists():
        for words in (
            ("remote", "add", "--local", "--default", REMOTE, str(store)),
            ("push", "--quiet"),
        ):
            _must(dvc(project, project.root, *words), f"dvc {words[0]}")
    clone = project.root.parent / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    project.project.git("clone", "--quiet", str(project.root), str(clone))
    for words in (
        ("remote", "add", "--local", "--default", REMOTE, str(store)),
        ("remote", "modify", "--local", REMOTE, "verify", "true"),
    ):
        _must(dvc(project, clone, *words), f"dvc {words[0]} {words[1]}")
    stored = sorted(file for file in store.rglob("*") if file.is_file() and file.stat().st_size)
    file = rng.choice(stored)
    content = file.read_bytes()
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    file.chmod(0o644)
    file.write_bytes(bytes(changed))
    outcome.count("damaged remotes")
    ended = dvc(project, clone, "pull")
    after = f"a bit of {file.relative_to(store)} in the remote, {len(content)} bytes"
    if ended.status == 0:
        outcome.fail("dvc pull takes a flipped bit", after, ended.said())
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    if (ended := dvc(project, clone, "pull")).status:
        outcome.fail("dvc pull fails on a remote that is whole again", after, ended.said())
    shutil.rmtree(clone)
    return outcome
