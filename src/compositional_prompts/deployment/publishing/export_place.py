"""Where an export may be written: into nothing, or in the place of an earlier one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def check_place(
    out: Path, force: bool, is_earlier: Callable[[Path], bool], kind_of_earlier: str
) -> None:
    """Check a folder to write before the work begins.

    Args:
        out: the folder.
        force: replace an earlier export.
        is_earlier: whether a folder holds one; a slip of the hand must not cost a folder of
            something else.
        kind_of_earlier: what it is then, for the message.

    Raises:
        FileExistsError: there is something at ``out``, and ``force`` is not given or it is no
            earlier export.
    """
    if out.is_symlink():
        raise FileExistsError(f"{out} is a link: name the folder itself.")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: name a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise FileExistsError(f"{out} is not empty: name another folder, or replace it: --force.")
    if not is_earlier(out):
        raise FileExistsError(
            f"{out} is no earlier export ({kind_of_earlier}), and only such are replaced: name "
            "another folder."
        )
