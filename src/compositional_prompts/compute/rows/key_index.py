"""Where the rows of keys are: sorted arrays in memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ABSENT = -1
"""The place of a key that is not in an index."""


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

    24 bytes an entry; up to 80 while many are added at once. Entries are added in parts, of which
    neighbours of like size are merged, so that there are few. Of equal keys the first added counts.
    """

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def add(self, keys: NDArray[np.void], places: NDArray[np.int64]) -> None:
        """Add entries.

        Args:
            keys: ``V16 [n]``.
            places: int64 ``[n]``.
        """
        if not len(keys):
            return
        self._parts.append(_sorted(*halves(keys), places))
        while len(self._parts) > 1 and len(self._parts[-2].first) <= 2 * len(self._parts[-1].first):
            later, earlier = self._parts.pop(), self._parts.pop()
            merged = (np.concatenate(pair) for pair in zip(earlier, later, strict=True))
            self._parts.append(_sorted(*merged))

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

    def places(self) -> NDArray[np.int64]:
        """The places of all entries, in no order, int64 ``[n]``."""
        return np.concatenate([np.empty(0, np.int64), *(part.places for part in self._parts)])


def _sorted(
    first: NDArray[np.uint64], second: NDArray[np.uint64], places: NDArray[np.int64]
) -> _Part:
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    again = np.zeros(len(order), np.bool_)
    again[1:] = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
    return _Part(first[~again], second[~again], places[order[~again]])
