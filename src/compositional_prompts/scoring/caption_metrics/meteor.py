"""METEOR by exact words and stems alone (Banerjee and Lavie 2005), without WordNet or Java."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.scoring.slot_accuracy import plain_words

BEAM = 64
"""Partial alignments kept: captions that repeat few words never have as many."""


def meteor_stem(captions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """METEOR of every caption against the reference of the same position; in docs/metrics.md.

    The modules are exact and then stem (Snowball's English), which count the same; there are no
    synonyms and no paraphrases, so these are not the numbers of METEOR 1.5 as papers report it.
    They are those of METEOR 1.5 with ``-m "exact stem" -w "1 1" -p "0.9 3 0.5 0.5"``, but that this
    matches none of several words with the stem of one. NLTK's METEOR takes the alignment that it
    meets first instead of one of fewest chunks, so it is not used
    (findings/nltk_meteor_alignment.sh). Each distinct pair is scored once.

    Args:
        captions: ``n`` captions.
        references: as many references.

    Returns:
        float64 ``[n]`` in 0..1; 0 where no word is in common.

    Raises:
        ValueError: there are more captions than references, or fewer.
    """
    pairs = list(zip(captions, references, strict=True))
    scores = {
        pair: _score(*(plain_words(text).split() for text in pair)) for pair in dict.fromkeys(pairs)
    }
    return np.array([scores[pair] for pair in pairs], dtype=np.float64)


@cache
def _stemmer() -> Callable[[str], str]:
    from nltk.stem.snowball import EnglishStemmer  # which takes a second to import

    return cache(EnglishStemmer().stem)


def _score(caption: Sequence[str], reference: Sequence[str]) -> float:
    if not caption or not reference:
        return 0.0
    matches, chunks = align(caption, reference)
    if not matches:
        return 0.0
    if matches == len(caption) == len(reference) and chunks == 1:
        return 1.0  # METEOR 1.5 has no penalty then; the formula's would be 0.5 / matches^3
    precision, recall = matches / len(caption), matches / len(reference)
    mean = 10 * precision * recall / (recall + 9 * precision)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


def align(caption: Sequence[str], reference: Sequence[str]) -> tuple[int, int]:
    """How many words match, and in how few runs of neighbours in both texts.

    Of all alignments, those with most exact matches; of these those with most matches of stems; of
    these one of fewest runs. The search goes from left to right over which word of the reference
    each word takes: exact as long as there are no more than ``BEAM`` ways that differ in what is
    taken, and the best of them beyond.
    """
    stem = _stemmer()
    stems = [stem(word) for word in caption]
    others = [stem(word) for word in reference]
    places = {word: [j for j, one in enumerate(others) if one == word] for word in stems}
    left = Counter(stems)  # from the current word on
    # (words of the reference taken, as bits; the one taken last, if by the word before): minus the
    # exact matches, and the runs.
    ways = {(0, -1): (0, 0)}
    for word, stemmed in zip(caption, stems, strict=True):
        left[stemmed] -= 1
        longer: dict[tuple[int, int], tuple[int, int]] = {}
        for (taken, last), (inexact, chunks) in ways.items():
            free = [j for j in places[stemmed] if not taken >> j & 1]
            further = {
                (taken | 1 << j, j): (
                    inexact - (reference[j] == word),
                    chunks + (last < 0 or j != last + 1),
                )
                for j in free
            }
            # Skipped where enough of the same stem follow to take all that is free.
            if left[stemmed] >= len(free):
                further[taken, -1] = inexact, chunks
            for way, cost in further.items():
                longer[way] = min(cost, longer.get(way, cost))
        if len(longer) > BEAM:
            longer = dict(sorted(longer.items(), key=lambda way: (way[1], way[0]))[:BEAM])
        ways = longer
    (taken, _), (_, chunks) = min(ways.items(), key=lambda way: (way[1], way[0]))
    return taken.bit_count(), chunks
