"""Commands that read outputs name the one that is damaged, where a library fails without a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compositional_prompts.files.damage import damaged_file
from compositional_prompts.pipeline.error_messages import exhausted, is_explained


@contextmanager
def naming_damage(paths: Iterable[Path]) -> Iterator[None]:
    """As stages do for their inputs: search ``paths`` after an error that explains nothing.

    Args:
        paths: files and folders that the block reads.

    Raises:
        DamagedOutputError: one of them cannot be read, and so the block failed.
    """
    try:
        yield
    except Exception as error:
        nameless = isinstance(error, OSError) and error.errno is None
        if exhausted(error) or (is_explained(error) and not nameless):
            raise
        damaged = damaged_file(paths)
        if damaged is None:
            raise
        raise damaged from error
