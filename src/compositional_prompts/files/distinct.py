"""Which of a stream of values were there before, in a few bytes each."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BYTES: Final = 8
_FEWEST_RECENT: Final = 2**12
# A Python set takes five to ten times what a sorted array does: at most this share is in one.
_RECENT_SHARE: Final = 32


class Distinct:
    """The distinct values of a stream, known by digests of 64 bits.

    Takes 8 bytes a value, and 8 more while the recent ones are sorted in, some four more for those.
    Of a million values two are taken for one in one stream of forty million.
    """

    def __init__(self) -> None:
        self._sorted: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def add(self, value: bytes) -> bool:
        """Take the next value; whether it is the first of its kind."""
        number = int.from_bytes(hashlib.blake2b(value, digest_size=_BYTES).digest())
        if number in self._recent:
            return False
        digest = np.uint64(number)
        place = self._sorted.searchsorted(digest)
        if place < len(self._sorted) and self._sorted[place] == digest:
            return False
        self._recent.add(number)
        if len(self._recent) >= max(_FEWEST_RECENT, len(self._sorted) // _RECENT_SHARE):
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            recent.sort()
            self._recent.clear()
            # A stable sort merges two sorted runs.
            self._sorted = np.concatenate([self._sorted, recent])
            self._sorted.sort(kind="stable")
        return True
