"""Where a long stage keeps what it has done so far, so that a killed run goes on when rerun.

A stage's folder is named by a fingerprint of everything its outcome depends on: the same run finds
it again, a changed parameter, input or source file starts afresh. It lies outside the stage's
outputs, which DVC removes before a run, and goes when the stage succeeds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCRATCH = Path("scratch")
"""Relative to the project's root; ignored by git and by DVC."""

PACKAGE = Path(__file__).parents[1]


def fingerprint(settings: Any, inputs: Sequence[Path]) -> str:
    """A name for a run: 16 hexadecimal digits.

    Args:
        settings: whatever decides the outcome, as JSON can hold it.
        inputs: files and folders that are read. They are told apart by name, size and time of
            change, not by content, which would cost as much as reading them.

    The package's source files count by content.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in inputs:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_dir():
                continue
            status = file.stat()
            digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    for source in sorted(PACKAGE.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file of a scratch folder where an output is made, and keep it.

    A hard link where the file system allows it, which costs nothing; a copy to another one.
    """
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def scratch_folder(stage: str, key: str, root: Path = SCRATCH) -> Iterator[Path]:
    """The folder of one run of a stage, ``root/stage/key``; made if it is not there.

    Folders of the stage's other runs are removed: they were killed, and nobody came back. This
    one is removed when the block succeeds, and kept when it fails.
    """
    folder = root / stage / key
    if folder.parent.is_dir():
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
