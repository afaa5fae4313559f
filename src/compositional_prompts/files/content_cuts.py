"""Where rows that fill several files are cut: by what the rows are, not by how many stand before.

DVC shares whole files. Were a table cut wherever a file is full, one row more would move every cut
behind it, and every file behind it would be another. Cut by content, the files behind an added or
removed row find back to their old cuts after a file or two, and are the same bytes as before.
"""

from __future__ import annotations

import hashlib
from typing import Final

_DIGEST_BYTES: Final = 8
_DIGESTS: Final = 2 ** (8 * _DIGEST_BYTES)


class ContentCuts:
    """Says of every row of a stream whether a new part starts with it.

    Behind the smallest size, a row starts a part where its digest falls below a threshold, which
    is the higher the larger the row: so one part in e**7 comes to the largest size, and is cut
    there, wherever that is. How far a change reaches: the part that it is in and mostly one more.

    Attributes:
        smallest: size of a part in bytes from which a row's digest may end it: an eighth of the
            largest. Only the last part, and one before a row that would not fit, are smaller.
        expected: mean size of a part of random rows: a quarter of the largest.
        largest: no part is larger, unless it is a single row.
    """

    def __init__(self, largest: int) -> None:
        """Start before the first row.

        Raises:
            ValueError: ``largest`` is not positive.
        """
        if largest < 1:
            raise ValueError(f"the largest size of a part must be positive, found {largest}.")
        self.largest = largest
        self.smallest = largest // 8
        self.expected = largest // 4
        self._filled: int | None = None

    def starts(self, row: bytes, size: int) -> bool:
        """Whether the next row is the first of a part; the very first row of all is.

        Args:
            row: what tells this row from others and stays when others are added, such as the
                digest of its image and its image_id. Rows that are alike here are cut alike, so
                that a long run of them would be cut at the largest size alone.
            size: bytes that it will take.
        """
        start = (
            self._filled is None
            or self._filled + size > self.largest
            or (self._filled >= self.smallest and self._is_cut(row, size))
        )
        self._filled = size if start or self._filled is None else self._filled + size
        return start

    def _is_cut(self, row: bytes, size: int) -> bool:
        digest = hashlib.blake2b(row, digest_size=_DIGEST_BYTES, person=b"cuts").digest()
        return int.from_bytes(digest) * (self.expected - self.smallest) < size * _DIGESTS
