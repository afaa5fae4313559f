"""Many names, sorted, in little more than their own bytes."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class SortedNames:
    """Names as Python sorts them, by code point.

    Takes 12 bytes a name beside its UTF-8, and 8 more while they are sorted; a list of them takes
    60 and a set twice that.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Take all of them.

        Raises:
            UnicodeEncodeError: a name is not to be written in UTF-8.
        """
        texts, ends = bytearray(), array("q", [0])
        for name in names:
            texts += name.encode()
            ends.append(len(texts))
        self._texts, self._ends = texts, ends
        unsorted = pa.Array.from_buffers(
            pa.large_utf8(), len(ends) - 1, [None, pa.py_buffer(ends), pa.py_buffer(texts)]
        )
        # Arrow compares bytes, and those of UTF-8 are in the order of the code points.
        indices = pc.sort_indices(unsorted)
        # Not to_numpy(), which imports pandas where it is installed.
        order = np.frombuffer(indices.buffers()[1], np.uint64, len(indices))
        self._order = array("I" if len(order) <= 2**32 else "Q")
        self._order.frombytes(order.astype(np.dtype(self._order.typecode)).view(np.uint8).data)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, position: int) -> str:
        return self._encoded(position).decode()

    def find(self, name: str) -> int | None:
        """The position of a name, the first of equal ones; None where it is not there."""
        try:
            encoded = name.encode()
        except UnicodeEncodeError:  # so none of these
            return None
        position = bisect_left(range(len(self)), encoded, key=self._encoded)
        return position if position < len(self) and self._encoded(position) == encoded else None

    def beginning_with(self, prefix: str) -> Iterator[str]:
        """The names that begin with a text, sorted."""
        encoded = prefix.encode()
        for position in range(bisect_left(range(len(self)), encoded, key=self._encoded), len(self)):
            name = self._encoded(position)
            if not name.startswith(encoded):
                return
            yield name.decode()

    def _encoded(self, position: int) -> bytes:
        place = self._order[position]
        return bytes(self._texts[self._ends[place] : self._ends[place + 1]])
