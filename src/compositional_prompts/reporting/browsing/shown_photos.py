"""Which photos can be looked up on the page: all of a small catalog, a sample of a large one."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES, SPLITS
from compositional_prompts.files.tables import read_table
from compositional_prompts.reporting.content.photo_choice import rank


@dataclass(frozen=True, slots=True)
class ShownPhotos:
    """Photos of the catalog, in its order.

    Attributes:
        image_ids: of those shown.
        shown: how many of each split are.
        all: how many of each split there are.
    """

    image_ids: Sequence[str]
    shown: Mapping[str, int]
    all: Mapping[str, int]

    @property
    def is_sample(self) -> bool:
        """Whether the catalog has more photos."""
        return len(self.image_ids) < sum(self.all.values())


def choose_shown(splits: Path, most: int, seed: int) -> ShownPhotos:
    """At most ``most`` photos of ``data/splits.parquet``.

    Test photos come first, for they alone are scored, then validation, then training photos;
    among those of the split that does not fit as a whole, chance by the seed decides.

    Raises:
        MissingOutputError, SchemaError: as :func:`files.tables.read_table`.
    """
    table = read_table(splits, SPLITS, ["image_id", "caption_split"])
    ids, names = (table.column(name).to_pylist() for name in ("image_id", "caption_split"))
    rows: Sequence[int] = range(len(ids))
    if len(ids) > most:
        turn = {name: place for place, name in enumerate(reversed(SPLIT_NAMES))}
        key = f"{seed}/shown"
        rows = sorted(
            heapq.nsmallest(most, rows, lambda row: (turn[names[row]], rank(ids[row], key)))
        )
    return ShownPhotos(
        [ids[row] for row in rows], Counter(names[row] for row in rows), Counter(names)
    )
