"""Choosing images to show: the same for the same key, and spread over what they show."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from hashlib import blake2b


def rank(image_id: str, key: str) -> int:
    """A number that orders images at random, by the key and not by where they stand in a table."""
    digest = blake2b(f"{key}/{image_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def choose(rows: Iterable[tuple[str, str]], count: int, key: str) -> list[str]:
    """``count`` image ids (fewer when there are fewer) out of ``(image_id, group)`` rows.

    The same ``key`` chooses the same images; another one, others. Groups take turns, so that a
    frequent one does not crowd the rest out. Rows are read once and in any order; memory grows
    with the number of groups, not of rows.
    """
    kept: dict[str, list[tuple[int, str]]] = {}
    for image_id, group in rows:
        heap = kept.setdefault(group, [])
        item = (-rank(image_id, key), image_id)
        if len(heap) < count:
            heapq.heappush(heap, item)
        elif item > heap[0]:
            heapq.heappushpop(heap, item)
    turns = [
        (turn, -negative, image_id)
        for heap in kept.values()
        for turn, (negative, image_id) in enumerate(sorted(heap, reverse=True))
    ]
    return [image_id for _, _, image_id in sorted(turns)[:count]]
