"""Whether a process goes on, for tests that end some."""

from __future__ import annotations

import time

import psutil


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended: one that nobody has waited for yet has."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def ends(pid: int, patience: float = 10.0) -> bool:
    """Whether a process ends within so many seconds; one that does not is killed."""
    until = time.monotonic() + patience
    while is_running(pid):
        if time.monotonic() > until:
            psutil.Process(pid).kill()
            return False
        time.sleep(0.01)
    return True
