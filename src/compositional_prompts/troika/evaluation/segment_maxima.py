"""The maxima of a segment of candidates that decide whether an image's true pair is predicted.

The columns of a segment have ascending keys. The maxima of chunks of neighbouring columns are one
vectorised pass over the scores; everything else is read off the chunk maxima and off one chunk of
every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NARROW_SEGMENT = 128
"""Up to so many columns a segment is looked at as a whole."""

CHUNK = 32
"""Columns of a chunk: enough for the pass to run at the speed of memory, few to look into."""

WIDE_SEGMENT = 4096
"""From so many columns on a chunk is :data:`WIDE_CHUNK` columns, so that there are few of them."""

WIDE_CHUNK = 128
"""Columns of a chunk of a wide segment."""


@dataclass(frozen=True)
class SegmentMaxima:
    """What a segment says of every row; minus infinity where there is no such column.

    Attributes:
        before: highest score among the columns of a lower key than the true one, ``[rows]``.
        after: the same among those of a higher key, ``[rows]``.
        best: highest score of all columns, ``[rows]``; NaN if one of them is.
        key: key of the best column, the lowest at a tie, int64 ``[rows]``.
    """

    before: Tensor
    after: Tensor
    best: Tensor
    key: Tensor


def segment_maxima(scores: Tensor, keys: Tensor, truth_keys: Tensor) -> SegmentMaxima:
    """The maxima of a segment.

    Args:
        scores: float ``[rows, columns]``, at least one column.
        keys: key of every column, strictly ascending, int64 ``[columns]``.
        truth_keys: key of the true pair of every row, in the segment or not, int64 ``[rows]``.
    """
    columns = scores.shape[1]
    best, position = first_maximum(scores)
    place = torch.searchsorted(keys, truth_keys)  # columns below it come before the true pair
    last = place.clamp(max=columns - 1)
    after_own = place + (keys.index_select(0, last) == truth_keys)
    if columns <= NARROW_SEGMENT:
        before, after = _around(scores, place, after_own)
        return SegmentMaxima(before, after, best, keys.index_select(0, position))

    size = CHUNK if columns < WIDE_SEGMENT else WIDE_CHUNK
    whole = columns - columns % size
    maxima = scores[:, :whole].unflatten(1, (-1, size)).amax(dim=2)
    if whole < columns:
        maxima = torch.cat([maxima, scores[:, whole:].amax(dim=1, keepdim=True)], dim=1)
    windows = scores.unfold(1, size, 1)  # a view: every run of neighbouring columns
    rows = torch.arange(len(scores), device=scores.device)
    chunk = last // size
    start = (chunk * size).clamp(max=columns - size)  # the last chunk overlaps the one before it
    before, after = _around(windows[rows, start], place - start, after_own - start)
    before_chunks, after_chunks = _around(maxima, chunk, chunk + 1)
    return SegmentMaxima(
        before=torch.maximum(before, before_chunks),
        after=torch.maximum(after, after_chunks),
        best=best,
        key=keys.index_select(0, position),
    )


def first_maximum(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Highest score of each row and its first column, ``[rows]`` each; NaN is the highest of all.

    On the CPU by NumPy, whose ``argmax`` is vectorised: several times faster than ``torch.max``.
    """
    if scores.device.type != "cpu":
        best, position = scores.max(dim=1)
        return best, position
    position = torch.from_numpy(scores.numpy().argmax(axis=1))
    return scores.gather(1, position[:, None]).squeeze(1), position


def _around(numbers: Tensor, end: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Highest of each row's numbers before ``end``, and from ``start`` on, ``[rows]`` each."""
    count = numbers.shape[1]
    if count > NARROW_SEGMENT:
        within = torch.arange(count, device=numbers.device)
        before = numbers.masked_fill(within >= end[:, None], -torch.inf)
        after = numbers.masked_fill(within < start[:, None], -torch.inf)
        return before.amax(dim=1), after.amax(dim=1)
    # To look up rows of a table and add to them is faster than masks, and amax is fastest for
    # whole chunks.
    low = numbers.new_full((count + 1, -(-count // CHUNK) * CHUNK), -torch.inf)
    kept = low.triu().index_select(0, end)
    kept[:, :count] += numbers
    highest_before = kept.amax(dim=1)
    low[:, :count].tril_(-1)
    torch.index_select(low, 0, start, out=kept)
    kept[:, :count] += numbers
    return highest_before, kept.amax(dim=1)
