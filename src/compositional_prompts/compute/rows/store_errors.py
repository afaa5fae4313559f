"""What may be wrong with a row store, in words that name the file and the remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class RowStoreError(RuntimeError):
    """The store at ``base.rows.path`` cannot be used as it is."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError among the bases would quote it


class MissingRowError(RowStoreError, KeyError):
    """A row that is asked for is not in the store, or no longer sound."""


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what the system says of ``path``, or of a file in it, into a :class:`RowStoreError`."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise RowStoreError(f"{where}: {error.strerror or error}; {_remedy(error)}.") from error


def _remedy(error: OSError) -> str:
    if error.errno in _FULL:
        return (
            "the rows computed so far are kept. Make room (`compositional-prompts rows prune`), "
            "or set base.rows.path to a folder on another disk and base.rows.max_gib to less than "
            "it has"
        )
    if error.errno in _CLOSED:
        return (
            "rows cannot be kept there: allow reading and writing, or set base.rows.path to "
            "another folder"
        )
    if error.errno in _NO_LOCKS:
        return "its file system has no locks (flock): set base.rows.path to another one"
    return "set base.rows.path to a folder for rows alone"
