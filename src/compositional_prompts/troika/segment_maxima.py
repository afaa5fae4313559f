"""The maxima of a segment of candidates that decide whether an image's true pair is predicted.

The columns of a segment have ascending keys. The maxima of chunks of neighbouring columns are one
vectorised pass over the scores; everything else is read off the chunk maxima and off one chunk of
every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 64
"""Columns of a chunk: enough for the pass to run at the speed of memory, few to look into."""


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
    whole = columns - columns % CHUNK
    parts = []
    if whole:
        parts.append(scores[:, :whole].unflatten(1, (-1, CHUNK)).amax(dim=2))
    if whole < columns:
        parts.append(scores[:, whole:].amax(dim=1, keepdim=True))
    maxima = torch.cat(parts, dim=1)
    within = torch.arange(min(CHUNK, columns), device=scores.device)

    def look_into(chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and keys of one chunk a row; the last column repeats where the chunk is short."""
        places = (chunk[:, None] * CHUNK + within).clamp(max=columns - 1)
        return scores.gather(1, places), keys[places]

    best, chunk = maxima.max(dim=1)
    values, value_keys = look_into(chunk)
    key = value_keys.gather(1, values.argmax(dim=1, keepdim=True)).squeeze(1)

    truth_chunk = torch.searchsorted(keys, truth_keys).clamp(max=columns - 1) // CHUNK
    chunks = torch.arange(maxima.shape[1], device=scores.device)
    values, value_keys = look_into(truth_chunk)
    return SegmentMaxima(
        before=torch.maximum(
            _highest(maxima, chunks < truth_chunk[:, None]),
            _highest(values, value_keys < truth_keys[:, None]),
        ),
        after=torch.maximum(
            _highest(maxima, chunks > truth_chunk[:, None]),
            _highest(values, value_keys > truth_keys[:, None]),
        ),
        best=best,
        key=key,
    )


def _highest(values: Tensor, where: Tensor) -> Tensor:
    return values.masked_fill(~where, -torch.inf).amax(dim=1)
