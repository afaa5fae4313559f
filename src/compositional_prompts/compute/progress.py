"""Progress of long loops: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS = 30.0
"""Between two lines of a log."""


def progress(
    items: Iterable[Item], label: str, total: int | None = None, *, announced: bool = False
) -> Iterable[Item]:
    """``items``, with a bar on a terminal; elsewhere a line with their number, and one every so
    many seconds.

    Args:
        items: what is gone through.
        label: what they are.
        total: how many, where ``items`` cannot tell.
        announced: their number is no news, as in the second of many epochs.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        return tqdm(items, desc=label, total=total)
    return _logged(items, label, total, announced)


def _logged(
    items: Iterable[Item], label: str, total: int | None, announced: bool
) -> Iterator[Item]:
    if not announced and total is not None:
        log.info("%s: %d", label, total)
    told = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - told >= SECONDS:
            log.info("%s: %d%s", label, number, f" of {total}" if total else "")
            told = time.monotonic()
        yield item
