"""When Python looks for garbage: not among what imports make, nor in a process that ends.

A million objects of modules are gone through each time, and twice at the end: with torch a second.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_collected() -> Iterator[None]:
    """Look for garbage while the program does its work, among what is made by then."""
    gc.freeze()
    gc.enable()
    try:
        yield
    finally:
        gc.freeze()


@contextmanager
def garbage_left() -> Iterator[None]:
    """Look for none, while something is imported that stays."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()
