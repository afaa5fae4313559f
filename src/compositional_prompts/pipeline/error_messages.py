"""Errors as people read them: what is wrong and what puts it right, in place of a traceback."""

from __future__ import annotations

import contextlib
import dis
import os
import sys
from collections.abc import Callable
from pathlib import Path

from compositional_prompts.files.outputs import OutputError
from compositional_prompts.pipeline.dvc_file import read_outputs, remedy

TRACEBACK = "COMPOSITIONAL_PROMPTS_TRACEBACK"
"""Environment variable: anything in it, and errors come with their traceback."""

_PACKAGE = Path(__file__).parents[1]


def message_of(error: BaseException) -> str:
    """The message of an error, with the command that makes again the outputs that it names."""
    # str() of a KeyError is the repr of what it was made with.
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    hint = ""
    if isinstance(error, OutputError):
        with contextlib.suppress(Exception):  # the error at hand tells more than one of the hint
            hint = remedy(error, read_outputs())
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
    """Run a stage's ``main``; an error that people can act on is its message and exit status 1."""
    try:
        main()
    except Exception as error:
        if os.environ.get(TRACEBACK) or not is_explained(error):
            raise
        sys.exit(f"{Path(sys.argv[0]).stem}: {message_of(error)}")
