"""A stage's script in a process of its own: killed, interrupted, starved, and how it ended.

It is the fork of this process, which has imported what the stages import and done nothing else, so
that a stage costs what it computes.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import multiprocessing.util
import os
import random
import re
import resource
import runpy
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src"

PATIENCE_SECONDS = 240.0
"""A stage of the small project that takes longer hangs."""

GRACE_SECONDS = 30.0
"""How long processes may take to follow the one that started them."""

TRACEBACK = re.compile(r"^Traceback \(most recent call last\):", re.MULTILINE)

_BECOME_REAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux: orphans of what is started here are ours to wait for."""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: its exit status; negative: the signal that ended it.
        text: all that it wrote, both streams.
        seconds: it ran.
        hung: it had to be ended after its patience was over.
        left: the command lines of processes that it left running.
    """

    status: int
    text: str
    seconds: float
    hung: bool
    left: tuple[str, ...]

    @property
    def traceback(self) -> bool:
        return TRACEBACK.search(self.text) is not None

    def said(self, lines: int = 6) -> str:
        """The last lines that it wrote."""
        return "\n".join(self.text.strip().splitlines()[-lines:])


@dataclass(frozen=True)
class Blow:
    """What hits a process at a moment.

    Attributes:
        seconds: after it began.
        signal: which is sent.
        worker: to one of its worker processes, if it has any then, and not to itself.
        group: to itself and all its processes at once, as when a machine goes down.
    """

    seconds: float
    signal: int
    worker: bool = False
    group: bool = False


def import_stages(scripts: Iterable[str]) -> None:
    """Import what the scripts of ``stages/`` import, for the processes to come."""
    for name in scripts:
        text = (ROOT / "stages" / f"{name}.py").read_text()
        for module in re.findall(r"^from (compositional_prompts[\w.]*)", text, re.MULTILINE):
            importlib.import_module(module)
    for module in ("dvc.repo", "dvc.repo.index"):  # a stage that fails asks what makes its inputs
        importlib.import_module(module)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def become_reaper() -> None:
    """Have orphans of the processes that are started here for children."""
    ctypes.CDLL(None, use_errno=True).prctl(_BECOME_REAPER, 1, 0, 0, 0)


def environment(home: Path) -> dict[str, str]:
    """No hub, no settings of the machine, our sources."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("DVC_", "GIT_", "COMPOSITIONAL_PROMPTS_"))
    }
    return kept | {
        "PYTHONPATH": str(SOURCES),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home / "hf"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "system"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
    }


def run_stage(
    words: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    *,
    blow: Blow | None = None,
    patience: float = PATIENCE_SECONDS,
    limits: Mapping[int, int] | None = None,
    fresh: bool = False,
) -> Ended:
    """Run a script as ``python words`` in ``folder`` would, and wait for its end and its workers'.

    Args:
        words: the script, and its arguments.
        folder: where it runs.
        variables: its environment.
        blow: what hits it; nothing where it ends before.
        patience: seconds after which it is ended.
        limits: soft and hard limits of :mod:`resource`.
        fresh: start Python anew, so that a signal may hit an import too.
    """

    def forked() -> None:
        _run_script([str(word) for word in words])

    def anew() -> None:
        os.execve(sys.executable, [sys.executable, *map(str, words)], dict(variables))

    return run_process(
        anew if fresh else forked, folder, variables, blow=blow, patience=patience, limits=limits
    )


def run_process(
    work: Callable[[], None],
    folder: Path,
    variables: Mapping[str, str],
    *,
    blow: Blow | None = None,
    patience: float = PATIENCE_SECONDS,
    limits: Mapping[int, int] | None = None,
) -> Ended:
    """As :func:`run_stage`, with any work for the process to do."""
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _begin(output.fileno(), folder, variables, limits or {})
            work()
            os._exit(0)
        try:
            hung = _watch(pid, started, blow, patience)
            seconds = time.monotonic() - started
            left = _left_running(pid)
        finally:
            _end_session(pid)
        _, state = os.waitpid(pid, 0)
        _reap()
        output.seek(0)
        text = output.read().decode(errors="replace")
    return Ended(os.waitstatus_to_exitcode(state), text, seconds, hung, left)


def _begin(
    output: int, folder: Path, variables: Mapping[str, str], limits: Mapping[int, int]
) -> None:
    os.setsid()
    # What is to be done at the end of the process that this is a fork of is not this one's.
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    multiprocessing.util._finalizer_registry.clear()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)


def _run_script(words: list[str]) -> None:
    """End this process as an interpreter that runs nothing but the script."""
    sys.argv = words
    status = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(BaseException):
        multiprocessing.util._exit_function()
        threading._shutdown()
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _watch(pid: int, started: float, blow: Blow | None, patience: float) -> bool:
    """Wait for the end of a process, and hit it meanwhile; whether it had to be ended."""
    watched = os.pidfd_open(pid)
    try:
        if blow is not None and not _ended(watched, started + blow.seconds):
            _hit(pid, blow)
        if _ended(watched, started + patience):
            return False
        os.kill(pid, signal.SIGKILL)
        return True
    finally:
        os.close(watched)


def _ended(watched: int, moment: float) -> bool:
    return bool(select.select([watched], [], [], max(0.0, moment - time.monotonic()))[0])


def _hit(pid: int, blow: Blow) -> None:
    targets = [pid]
    if blow.group:
        targets = list(_session(pid))
    elif blow.worker:
        workers = [one for one, words in _session(pid).items() if "spawn_main" in words]
        targets = [random.Random(blow.seconds).choice(workers)] if workers else []
    for target in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, blow.signal)


def _session(pid: int) -> dict[int, str]:
    """The living processes of a session, by number: their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == pid and state not in "ZX":
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = words.decode(errors="replace").strip()
    return found


def _left_running(pid: int) -> tuple[str, ...]:
    """What goes on long after the process of this session ended."""
    until = time.monotonic() + GRACE_SECONDS
    while left := _session(pid):
        if time.monotonic() > until:
            return tuple(left.values())
        time.sleep(0.02)
    return ()


def _end_session(pid: int) -> None:
    for one in _session(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def _reap() -> None:
    """Let go of orphans that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
