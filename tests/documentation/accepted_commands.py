"""Whether a program takes the arguments of a command, asked of its own parser; nothing is run."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[2]


PIP_PARSER = """
import sys
from pip._internal.cli.main_parser import parse_command
from pip._internal.commands import create_command

name, rest = parse_command(sys.argv[1:])
create_command(name).parse_args(rest)
"""


class NotAcceptedError(AssertionError):
    """A program does not know an argument, or lacks one."""


class _Parsed(BaseException):
    """The arguments were taken; what would follow is left undone."""


def _dvc(arguments: Sequence[str]) -> None:
    from dvc.cli import DvcParserError, parse_args

    try:
        parse_args(list(arguments))
    except DvcParserError as error:
        raise NotAcceptedError(str(error)) from error


def _ours(arguments: Sequence[str]) -> None:
    from compositional_prompts.__main__ import _parser

    _parser().parse_args(arguments)


def _make(arguments: Sequence[str]) -> None:
    # -n prints what would be done; MAKEFLAGS of a make that runs the tests would change it.
    done = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotAcceptedError(done.stderr)


def _pip(arguments: Sequence[str]) -> None:
    # Not here: pip imports the standard library's distutils, and setuptools, which compiling a
    # model needs, refuses to start after that.
    done = subprocess.run(
        [sys.executable, "-c", PIP_PARSER, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotAcceptedError(done.stderr)


def _hf(arguments: Sequence[str]) -> None:
    from huggingface_hub.cli.hf import app

    _click("hf", app, arguments)


def _ray(arguments: Sequence[str]) -> None:
    from ray.scripts.scripts import cli

    _click("ray", cli, arguments)


def _click(program: str, command: Any, arguments: Sequence[str]) -> None:
    import click

    rest = list(arguments)
    try:
        while hasattr(command, "resolve_command"):
            context = command.make_context(program, rest, resilient_parsing=True)
            _, command, rest = command.resolve_command(context, rest)
        command.make_context(program, rest)
    except click.exceptions.Exit:
        return  # help was printed
    except click.ClickException as error:
        raise NotAcceptedError(error.format_message()) from error


def _pytest(arguments: Sequence[str]) -> None:
    from _pytest.config import get_config
    from pytest import UsageError

    config = get_config(list(arguments), None)
    try:
        known = config.pluginmanager.hook.pytest_cmdline_parse(
            pluginmanager=config.pluginmanager, args=list(arguments)
        )
        for path in known.args:
            if not (ROOT / path).exists():
                raise NotAcceptedError(f"there is no {path}")
    except UsageError as error:
        raise NotAcceptedError(str(error)) from error
    finally:
        config._ensure_unconfigure()


def _accelerate(arguments: Sequence[str]) -> None:
    from accelerate.commands.config import get_config_parser
    from accelerate.commands.launch import launch_command_parser

    # Of the command as a whole most is imported for nothing.
    parsers = {"config": get_config_parser, "launch": launch_command_parser}
    if arguments[0] not in parsers:
        raise NotAcceptedError(f"accelerate {arguments[0]} is neither of {sorted(parsers)}")
    parsers[arguments[0]]().parse_args(list(arguments[1:]))


def _python(arguments: Sequence[str]) -> None:
    """A script of the project, or a module of Python's own after ``-m``."""
    if arguments[0] == "-m":
        with _stopped_once_parsed(list(arguments[1:])):
            runpy.run_module(arguments[1], run_name="__main__")
        return
    script = ROOT / arguments[0]
    with (
        patch.object(sys, "path", [str(script.parent), *sys.path]),
        _stopped_once_parsed([str(script), *arguments[1:]]),
    ):
        runpy.run_path(str(script), run_name="__main__")


@contextlib.contextmanager
def _stopped_once_parsed(argv: Sequence[str]) -> Iterator[None]:
    """Let ``argparse`` read ``argv`` and go no further."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *rest: Any, **named: Any) -> None:
        parse(self, *rest, **named)
        raise _Parsed

    with (
        patch.object(sys, "argv", list(argv)),
        patch.object(argparse.ArgumentParser, "parse_args", stop),
    ):
        try:
            yield
        except _Parsed:
            return
    raise NotAcceptedError(f"{argv[0]} did not read its arguments")


PARSERS: dict[str, Callable[[Sequence[str]], None]] = {
    "accelerate": _accelerate,
    "compositional-prompts": _ours,
    "dvc": _dvc,
    "hf": _hf,
    "make": _make,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
    "python3": _python,
    "ray": _ray,
}
"""By program."""


def check_accepted(program: str, arguments: Sequence[str]) -> None:
    """Ask the parser of a program.

    Args:
        program: one of :data:`PARSERS`.
        arguments: what stands after it.

    Raises:
        NotAcceptedError: it would refuse them, and says why.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            PARSERS[program](arguments)
    except SystemExit as ended:
        if ended.code not in (None, 0):  # --help and --version end well
            raise NotAcceptedError(said.getvalue() or str(ended.code)) from ended
