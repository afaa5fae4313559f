"""Signals that end a process: nothing is left of what it wrote, and one line is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import compositional_prompts

STAGE = """
import signal

# As in a terminal, whatever started the tests has them do with signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

from pathlib import Path
from compositional_prompts.compute.ordered_map import map_in_processes
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.pipeline.error_messages import run_script
from time import sleep

def main():
    with atomic_directory(Path("data/catalog")) as folder:
        for _ in map_in_processes(sleep, [0, 600, 600], workers=2, in_flight=2, died=str):
            (folder / "part").write_text("half")
            print("begun", flush=True)

if __name__ == "__main__":
    run_script(main)
"""


@pytest.mark.parametrize(
    ("send", "number", "said"),
    [
        (os.killpg, signal.SIGINT, "interrupted"),  # as a terminal sends it, to all
        (os.killpg, signal.SIGTERM, "ended by SIGTERM"),
        (os.kill, signal.SIGHUP, "ended by SIGHUP"),
    ],
)
def test_a_signal_to_a_stage_and_its_workers_leaves_nothing_but_a_line(
    send: Callable[[int, int], None], number: signal.Signals, said: str, tmp_path: Path
) -> None:
    script = tmp_path / "stages" / "download.py"
    script.parent.mkdir()
    script.write_text(STAGE)
    with subprocess.Popen(
        [sys.executable, script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as stage:
        assert stage.stdout is not None
        assert stage.stdout.readline() == "begun\n"
        send(stage.pid, number)
        # Workers hold the same pipes: it returns when all have ended.
        _, complaints = stage.communicate(timeout=300)
    assert complaints == f"download: {said}\n"
    assert stage.returncode == 128 + number
    assert list((tmp_path / "data").iterdir()) == []


IMPORTS = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import compositional_prompts
os.kill(os.getpid(), signal.SIGINT)  # as while the rest is imported
"""


@pytest.mark.parametrize("place", ["stages/split.py", "compositional-prompts"])
def test_an_interruption_of_the_start_says_nothing(place: str, tmp_path: Path) -> None:
    script = tmp_path / place
    script.parent.mkdir(exist_ok=True)
    script.write_text(IMPORTS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_programs_that_import_the_package_meet_signals_themselves(tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text(IMPORTS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT and "KeyboardInterrupt" in done.stderr
    assert compositional_prompts._is_ours("/home/one/stages/split.py")
    assert not compositional_prompts._is_ours("")


@pytest.mark.parametrize("wish", ["SIG_IGN", "print"])
def test_what_a_program_has_decided_of_signals_stays(wish: str) -> None:
    program = (
        "import signal; from signal import SIG_IGN\n"
        f"for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, {wish})\n"
        "from compositional_prompts.pipeline.interruption import meet_signals\n"
        "meet_signals()\n"
        f"assert signal.getsignal(signal.SIGINT) is {wish}\n"
        f"assert signal.getsignal(signal.SIGTERM) is {wish}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
