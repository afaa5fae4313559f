"""Whether a process goes on, for tests that end some."""

from __future__ import annotations

import psutil


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended: one that nobody has waited for yet has."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
