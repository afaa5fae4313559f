"""Where a long stage keeps what it has done so far, so that a killed run goes on when rerun.

A run's folder is named by a fingerprint of everything its outcome depends on: the same run finds
it again, a changed parameter, input or piece of code has another. It lies outside the stage's
outputs, which DVC removes before a run, and goes when the run succeeds.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SCRATCH = Path("scratch")
"""Relative to the project's root; ignored by git and by DVC."""

_FICLONE = 0x40049409  # of Linux; other systems refuse it

_REFUSING = "compositional_prompts.files.tensors.finite_numbers"

KEPT_DAYS = 14
KEPT_RUNS = 4
"""What other killed runs of a stage have done stays so long, of the last so many."""


def code_of(source: Path) -> bytes:
    """What a Python file says, without comments, docstrings and layout; any other file as it is.

    Nor does it count what only refuses numbers (:mod:`.tensors.finite_numbers`): whoever has a
    result has the same without it.
    """
    if source.suffix != ".py":
        return source.read_bytes()
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree):
        # Docstrings, also those of names: a text alone does nothing.
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [part for part in body if not (_is_text(part) or _only_refuses(part))]
    return ast.dump(tree).encode()


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _only_refuses(statement: ast.stmt) -> bool:
    """Whether it imports, or calls and does no more, what only refuses numbers."""
    if isinstance(statement, ast.ImportFrom):
        return statement.module == _REFUSING
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Name)
        and statement.value.func.id.startswith("require_finite_")
    )


def fingerprint(settings: Any, inputs: Sequence[Path], sources: Sequence[Path]) -> str:
    """A name for a run: 16 hexadecimal digits.

    Args:
        settings: whatever decides the outcome, as JSON can hold it.
        inputs: files and folders that are read. They are told apart by name, size and time of
            change, not by content, which would cost as much as reading them.
        sources: files of code that decide the outcome; their comments and docstrings do not count.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in inputs:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_dir():
                continue
            status = file.stat()
            digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    for source in sources:
        digest.update(f"{source.name}\n".encode() + code_of(source))
    return digest.hexdigest()[:16]


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file at a second place too.

    A hard link where the file system allows it, or a clone that shares its blocks, which cost
    nothing; a copy to another one.
    """
    try:
        target.hardlink_to(source)
        return
    except OSError:
        pass
    try:
        with source.open("rb") as original, target.open("wb") as clone:
            fcntl.ioctl(clone.fileno(), _FICLONE, original.fileno())
    except OSError:
        shutil.copyfile(source, target)


def _remove_old(folder: Path) -> None:
    """Of the runs beside ``folder`` keep those that :data:`KEPT_DAYS` and :data:`KEPT_RUNS` say."""
    others = sorted(
        ((other.stat().st_mtime, other) for other in folder.parent.iterdir() if other != folder),
        reverse=True,
    )
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    kept = [other for changed, other in others[:KEPT_RUNS] if changed >= oldest]
    for _, other in others:
        if other not in kept:
            log.info("removing %s of a run that was not taken up again", other)
            shutil.rmtree(other)
    if kept:
        log.info(
            "%s has what %d other runs that were interrupted have done: each goes when it is run "
            "again and ends, after %d days, or when there are more than %d",
            *(folder.parent, len(kept), KEPT_DAYS, KEPT_RUNS),
        )


@contextmanager
def scratch_folder(stage: str, key: str, root: Path = SCRATCH) -> Iterator[Path]:
    """The folder of one run of a stage, ``root/stage/key``; made if it is not there.

    It is removed when the block succeeds, and kept when it fails with something in it. Those of the
    stage's other runs stay, for a while, so that going back to their parameters goes on where they
    were.
    """
    folder = root / stage / key
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    _remove_old(folder)
    try:
        yield folder
    except BaseException:
        _remove_empty(folder, folder.parent)
        raise
    shutil.rmtree(folder)
    _remove_empty(folder.parent)


def _remove_empty(*folders: Path) -> None:
    """Remove folders, the inner one first, as far as nothing is in them."""
    with suppress(OSError):  # something is, or another process was faster
        for folder in folders:
            folder.rmdir()
