"""Errors as people read them: what is wrong and what puts it right, in place of a traceback."""

from __future__ import annotations

import contextlib
import dis
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from compositional_prompts.files.damage import damaged_file
from compositional_prompts.files.outputs import DamagedOutputError, FullDiskError, OutputError
from compositional_prompts.pipeline.dvc_file import read_outputs, remedy
from compositional_prompts.pipeline.garbage import garbage_collected
from compositional_prompts.pipeline.interruption import ending, meet_signals
from compositional_prompts.pipeline.terminal_text import escaped

TRACEBACK = "COMPOSITIONAL_PROMPTS_TRACEBACK"
"""Environment variable: anything in it, and errors come with their traceback."""

_FULL = 2**20
"""Bytes left on a disk that count as none."""

_PACKAGE = Path(__file__).parents[1]


def message_of(error: BaseException) -> str:
    """The message of an error, with the command that makes again the outputs that it names."""
    # str() of a KeyError is the repr of what it was made with.
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    hint = ""
    if isinstance(error, OutputError):
        with contextlib.suppress(Exception):  # the error at hand tells more than one of the hint
            hint = remedy(error, read_outputs())
        if type(error) is DamagedOutputError and not hint:
            hint = "Put it back from where it came."  # it is no output of the pipeline
    return f"{message} {hint}".rstrip()


def is_explained(error: BaseException) -> bool:
    """Whether the message of an error is meant for people: others are bugs.

    It is where this package raised it itself, and where the system or the network failed.
    """
    if isinstance(error, OSError | OutputError | ModuleNotFoundError):
        return True
    innermost = error.__traceback__
    if innermost is None or isinstance(error, AssertionError | NotImplementedError):
        return False
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    code = innermost.tb_frame.f_code
    # Not what a library written in C raised: Python knows no frame of it.
    instruction = dis.opname[code.co_code[innermost.tb_lasti]]
    return instruction == "RAISE_VARARGS" and Path(code.co_filename).is_relative_to(_PACKAGE)


def run_script(main: Callable[[], None]) -> None:
    """Run a stage's ``main``; an error that people can act on is its message and exit status 1.

    Where a library fails without naming its file, the stage's inputs are searched for a damaged
    one. An interruption, also by SIGTERM, is no error: what was done so far is taken up by the next
    run.
    """
    name = Path(sys.argv[0]).stem
    try:
        meet_signals()
        with garbage_collected():
            main()
    except KeyboardInterrupt as interrupt:
        said, status = ending(interrupt)
        print(f"{name}: {said}", file=sys.stderr)
        sys.exit(status)
    except BaseException as error:
        if os.environ.get(TRACEBACK) or not _is_failure(error):
            raise
        told = _told(error)
        if told is None:
            raise
        sys.exit(escaped(f"{name}: {told}"))


def _is_failure(error: BaseException) -> bool:
    """Whether it is an error; a panic of a library in Rust is no :class:`Exception` to Python."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def argument_paths(arguments: Sequence[str]) -> list[Path]:
    """The paths that a script was given: ``--name PATH`` or ``--name=PATH``."""
    words = [word.partition("=")[2] if word.startswith("--") else word for word in arguments]
    return [Path(word) for word in words if word]


def _told(error: BaseException) -> str | None:
    """What is told of an error; None where it is a bug."""
    if reason := exhausted(error):
        return reason
    explained = is_explained(error)
    if not explained or (isinstance(error, OSError) and error.errno is None):
        damaged = damaged_file(argument_paths(sys.argv[1:]))
        if damaged is not None:
            return message_of(damaged)
    return message_of(error) if explained else None


def exhausted(error: BaseException) -> str | None:
    """Where memory or the disk ran out: that, and what helps; None for anything else."""
    said = " ".join(str(error).split())
    if isinstance(error, FullDiskError):
        return None  # which says so by itself
    if "No space left on device" in said or shutil.disk_usage(Path()).free < _FULL:
        return f"the disk is full ({said}): make room; `dvc gc -w` removes results of other runs."
    foreign = isinstance(error, MemoryError) and not is_explained(error)
    if foreign or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said:
        return (
            f"memory ran out ({said[:200] or type(error).__name__}): lower the batch_size of this "
            "stage, or base.workers."
        )
    return None
