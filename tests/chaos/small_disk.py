"""A file system of its own for the small project, which can be made as small as one likes."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WHOLE = "2g"
_NEWNS, _NEWUSER = 0x00020000, 0x10000000


class SmallDisk:
    """A tmpfs in a mount namespace of this process, which ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def filled(self, room: int) -> Iterator[None]:
        """Inside, only so many bytes more can be written."""
        state = os.statvfs(self.folder)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        self._resize(str(used + max(room, state.f_frsize)))
        try:
            yield
        finally:
            self._resize(WHOLE)

    def _resize(self, size: str) -> None:
        words = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        subprocess.run(words, check=True)


def small_disk(folder: Path) -> SmallDisk | None:
    """Mount a file system on ``folder``, seen by this process alone; None where none may be.

    To be called before threads are started: without the rights of root it needs a user namespace.
    """
    system = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if system.unshare(_NEWNS if user == 0 else _NEWNS | _NEWUSER):
        return None
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    for words in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={WHOLE}", "none", str(folder)],
    ):
        if subprocess.run(words, capture_output=True, check=False).returncode:
            return None
    return SmallDisk(folder)
