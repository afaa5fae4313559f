"""Which pairs training never sees, though each word of them is seen in another pair."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from compositional_prompts.catalog.splitting.parameters import MadeAssignment
from compositional_prompts.catalog.splitting.product_splits import seeded_digest, seeded_share
from compositional_prompts.prompt.pair import Pair

UNSEEN_SPLITS: Final = ("test", "val")
"""What unseen pairs go to."""


def choose_unseen(
    counts: Mapping[Pair, int], share: float, seed: int, assignment: MadeAssignment
) -> dict[Pair, str]:
    """Choose the pairs that training never sees, and the split of each.

    ``exact`` cuts the pairs into as many runs of similar frequency as pairs are wanted, and each
    run gives one, by a hash of the seed, whose attribute and object both stay in another seen pair;
    runs that have none are made up for by the others. So unseen pairs are spread over frequent
    and rare ones, and dealt to test and val in turn from the most frequent to the rarest; and there
    may be fewer than asked for: none, where every pair holds the only occurrence of one of its
    words.

    ``stable`` takes the pairs whose hash is below ``share`` and both of whose words are in a pair
    whose hash is not; another hash says test or val. So a pair that is unseen stays so, in its
    split, whatever pairs are added and however frequent they are. One that is kept seen for a word
    that has no other pair becomes unseen once it has.

    Args:
        counts: the images of every pair.
        share: of the pairs, between 0 and 1; ``exact`` rounds to whole pairs.
        seed: another seed, another choice.
        assignment: as above.

    Returns:
        The split of every unseen pair.
    """
    if assignment == "stable":
        return _by_threshold(counts, share, seed)
    return _by_frequency(counts, share, seed)


def _by_threshold(pairs: Collection[Pair], share: float, seed: int) -> dict[Pair, str]:
    seen = [pair for pair in pairs if seeded_share(seed, "pair", *pair) >= share]
    attributes, objects = ({pair[word] for pair in seen} for word in (0, 1))
    return {
        pair: UNSEEN_SPLITS[int(2 * seeded_share(seed, "unseen", *pair))]
        for pair in sorted(set(pairs) - set(seen))
        if pair[0] in attributes and pair[1] in objects
    }


def _by_frequency(counts: Mapping[Pair, int], share: float, seed: int) -> dict[Pair, str]:
    wanted = math.floor(share * len(counts) + 0.5)
    attributes = Counter(attribute for attribute, _ in counts)
    objects = Counter(object_ for _, object_ in counts)
    chosen: set[Pair] = set()

    def choose_from(candidates: Sequence[Pair], most: int) -> None:
        ranked = sorted(candidates, key=lambda pair: seeded_digest(seed, "pair", *pair))
        for attribute, object_ in ranked:
            if most == 0:
                return
            if attributes[attribute] > 1 and objects[object_] > 1:
                attributes[attribute] -= 1
                objects[object_] -= 1
                chosen.add((attribute, object_))
                most -= 1

    by_frequency = sorted(counts, key=lambda pair: (-counts[pair], pair))
    for run in range(wanted):
        start, stop = (len(counts) * edge // wanted for edge in (run, run + 1))
        choose_from(by_frequency[start:stop], 1)
    choose_from([pair for pair in counts if pair not in chosen], wanted - len(chosen))
    dealt = [pair for pair in by_frequency if pair in chosen]
    return {pair: UNSEEN_SPLITS[number % len(UNSEEN_SPLITS)] for number, pair in enumerate(dealt)}
