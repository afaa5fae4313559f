"""Where the rows of keys are: sorted arrays in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ABSENT = -1
"""The place of a key that is not in an index."""


Entries = tuple[NDArray[np.void], NDArray[np.int64]]
"""Keys ``V16 [n]`` and their places, int64 ``[n]``."""

_NOTHING: Entries = (np.empty(0, "V16"), np.empty(0, np.int64))


class _Part(NamedTuple):
    """Entries by their key's first half, in ascending order; uint64, uint64, int64 ``[n]``."""

    first: NDArray[np.uint64]
    second: NDArray[np.uint64]
    places: NDArray[np.int64]


def halves(keys: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Keys ``V16 [n]`` as two numbers each, uint64 ``[n]``."""
    numbers = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def first_occurrences(keys: NDArray[np.void]) -> NDArray[np.int64]:
    """Positions of the first of every key ``V16 [n]``, ascending, int64 ``[m]``."""
    first, second = halves(keys)
    order = np.lexsort((second, first))  # stable: of equal keys the earliest comes first
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(first[order]) != 0) | (np.diff(second[order]) != 0)
    return np.sort(order[new])


class KeyIndex:
    """From keys of 16 bytes to places, numbers from 0 on.

    24 bytes an entry, and as much again while it is made. Entries are added in parts, of which
    neighbours of like size are merged, so that there are few. Of equal keys the first added counts.
    """

    def __init__(self, entries: list[Entries] | None = None) -> None:
        """An index of these entries; the list is emptied, so that their memory goes meanwhile.

        Args:
            entries: keys ``V16 [n]`` and places int64 ``[n]``.
        """
        self._parts: list[_Part] = []
        if entries:
            self._parts.append(_joined(entries))

    def add(self, keys: NDArray[np.void], places: NDArray[np.int64]) -> None:
        """Add entries.

        Args:
            keys: ``V16 [n]``.
            places: int64 ``[n]``.
        """
        if not len(keys):
            return
        self._parts.append(_sorted([*halves(keys), places]))
        while len(self._parts) > 1 and len(self._parts[-2].first) <= 2 * len(self._parts[-1].first):
            pairs = [self._parts[-2:]]
            del self._parts[-2:]
            self._parts.append(
                _sorted([np.concatenate(pair) for pair in zip(*pairs.pop(), strict=True)])
            )

    def find(self, keys: NDArray[np.void]) -> NDArray[np.int64]:
        """Places of keys ``V16 [n]``, int64 ``[n]``; :data:`ABSENT` where there is none."""
        first, second = halves(keys)
        found = np.full(len(keys), ABSENT, np.int64)
        for part in self._parts:
            wanted = np.flatnonzero(found == ABSENT)
            at = np.searchsorted(part.first, first[wanted])
            # Keys that share their first half stand side by side: go on until the second fits too.
            while len(wanted):
                inside = at < len(part.first)
                wanted, at = wanted[inside], at[inside]
                alike = part.first[at] == first[wanted]
                wanted, at = wanted[alike], at[alike]
                hit = part.second[at] == second[wanted]
                found[wanted[hit]] = part.places[at[hit]]
                wanted, at = wanted[~hit], at[~hit] + 1
        return found

    def count(self) -> int:
        """How many different keys there are."""
        firsts = [np.empty(0, np.uint64), *(part.first for part in self._parts)]
        seconds = [np.empty(0, np.uint64), *(part.second for part in self._parts)]
        keys = np.stack([np.concatenate(firsts), np.concatenate(seconds)], 1)
        return len(first_occurrences(keys.view("V16").ravel()))

    def places(self) -> NDArray[np.int64]:
        """The places of all entries, in no order, int64 ``[n]``."""
        return np.concatenate([np.empty(0, np.int64), *(part.places for part in self._parts)])


def _joined(entries: list[Entries]) -> _Part:
    total = sum(len(keys) for keys, _ in entries)
    columns: list[NDArray[Any]] = [
        np.empty(total, kind) for kind in (np.uint64, np.uint64, np.int64)
    ]
    begin = 0
    for number in range(len(entries)):
        keys, places = entries[number]
        entries[number] = _NOTHING
        for column, values in zip(columns, (*halves(keys), places), strict=True):
            column[begin : begin + len(keys)] = values
        begin += len(keys)
    entries.clear()
    return _sorted(columns)


def _sorted(columns: list[NDArray[Any]]) -> _Part:
    """Entries in order, of equal keys the first.

    Args:
        columns: as those of :class:`_Part`; one after another is replaced, so that memory holds few
            copies.
    """
    order = np.argsort(columns[0], kind="stable")
    for number in range(len(columns)):
        columns[number] = columns[number][order]
    del order
    first, second, _ = columns
    again = np.zeros(len(first), np.bool_)
    again[1:] = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
    if again.any():
        columns = [column[~again] for column in columns]
    return _Part(*columns)
