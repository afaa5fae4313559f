"""The worlds that images are judged in, and the pairs that are scored for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from compositional_prompts.files.digests import content_digest
from compositional_prompts.troika.evaluation.feasibility import OpenWorld
from compositional_prompts.troika.evaluation.judging import World
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary


class JudgedWorld(NamedTuple):
    """One world and its prefixes.

    Attributes:
        world: the pairs.
        place: column of each pair of the vocabulary, int64 ``[pairs]``; -1 for pairs that are not
            of this world.
        cuts: how many columns are candidates in each of its prefixes, ascending.
    """

    world: World
    place: Tensor
    cuts: list[int]


@dataclass(frozen=True)
class JudgedWorlds:
    """The worlds asked for, on the CPU. It can be pickled.

    Attributes:
        candidates: attribute and object position of every pair to be scored, int64 ``[pairs, 2]``:
            the open world in its order where images are judged in it, else the vocabulary.
        listed: position among the candidates of every pair of the vocabulary, int64 ``[pairs]``.
        closed: the seen pairs and the unseen pairs of the test split, or None.
        validation: the same with those of the validation split, which chooses the bias; or None.
        open: every combination, or None.
    """

    candidates: Tensor
    listed: Tensor
    closed: JudgedWorld | None
    validation: JudgedWorld | None
    open: OpenWorld | None

    @classmethod
    def of(cls, vocabulary: Vocabulary, closed: bool, open_world: OpenWorld | None) -> JudgedWorlds:
        """The worlds of a vocabulary; the open one is given."""
        pairs = torch.from_numpy(vocabulary.pair_indices)
        candidates, listed = pairs, torch.arange(len(pairs))
        if open_world is not None:
            candidates = open_world.pair_indices
            listed = open_world.columns[pairs[:, 0], pairs[:, 1]]
        tested = _closed_world(vocabulary, "test") if closed else None
        validation = _closed_world(vocabulary, "val") if closed else None
        return cls(candidates, listed, tested, validation, open_world)

    def __iter__(self) -> Iterator[tuple[str, JudgedWorld]]:
        """The worlds asked for, by name."""
        if self.closed is not None:
            yield "closed", self.closed
        if self.validation is not None:
            yield "validation", self.validation
        if self.open is not None:
            yield "open", JudgedWorld(self.open.world, self.listed, self.open.cuts)

    def content(self) -> dict[str, Any]:
        """What decides a judgement, as JSON holds it: pairs in their order, seen ones, cuts."""
        found = {}
        for name, (world, place, cuts) in self:
            parts = (world.attributes, world.objects, world.seen, place)
            order = content_digest(b"".join(part.numpy().tobytes() for part in parts)).hex()
            found[name] = {"pairs": len(world), "order": order, "cuts": cuts}
        return found


def _closed_world(vocabulary: Vocabulary, split: str) -> JudgedWorld:
    columns = vocabulary.world(split)
    place = np.full(len(vocabulary.pairs), -1, dtype=np.int64)
    place[columns] = np.arange(len(columns))
    seen = np.array(vocabulary.seen, dtype=bool)[columns]
    world = World.of(torch.from_numpy(vocabulary.pair_indices[columns]), torch.from_numpy(seen))
    return JudgedWorld(world, torch.from_numpy(place), [len(columns)])
