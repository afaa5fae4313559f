"""Progress bars of long loops."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], label: str, total: int | None = None) -> Iterable[Item]:
    """A progress bar around ``items``, quiet when standard error is not a terminal."""
    return tqdm(items, desc=label, total=total, disable=not sys.stderr.isatty())
