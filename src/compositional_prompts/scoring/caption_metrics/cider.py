"""CIDEr-D of captions with one reference each (Vedantam et al., CVPR 2015); in docs/metrics.md."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.scoring.slot_accuracy import plain_words

HIGHEST = 10.0
"""What a caption can score at most: the authors' code multiplies the mean of four cosines by it."""
ORDERS = 4
SIGMA = 6.0


@dataclass(frozen=True)
class CiderScores:
    """CIDEr-D, and how many captions it cannot judge.

    Attributes:
        values: float64 ``[n]`` in 0..10.
        indistinct_references: references without an n-gram that tells them from the others: every
            caption of theirs scores 0, a perfect one too.
    """

    values: NDArray[np.float64]
    indistinct_references: int


PAIRS_AT_ONCE = 8192
"""Pairs whose n-grams are compared at once, so that this takes little memory beside the n-grams."""


@dataclass(frozen=True)
class _Grams:
    """The n-grams of one order in distinct texts: an entry a text and n-gram.

    Attributes:
        keys: number of the text times ``distinct`` plus number of the n-gram, int64 ``[entries]``,
            sorted.
        count: how often it stands there, int32 ``[entries]``.
        distinct: how many n-grams there are.
    """

    keys: NDArray[np.int64]
    count: NDArray[np.int32]
    distinct: int

    @property
    def text(self) -> NDArray[np.int64]:
        """Number of the text of each entry, int64 ``[entries]``."""
        return self.keys // self.distinct

    @property
    def gram(self) -> NDArray[np.int64]:
        """Number of the n-gram of each entry, int64 ``[entries]``."""
        return self.keys % self.distinct


def cider_d(captions: Sequence[str], references: Sequence[str]) -> CiderScores:
    """Score every caption against the reference of the same position.

    As the authors' code (and pycocoevalcap) has it: n-grams of 1 to 4 tokens, no stemming; weights
    are counts times ``ln(n) - ln(max(1, df))``, ``df`` in how many of the references an n-gram
    stands; cosines are clipped to the reference's weights and damped by a Gaussian of the
    difference in length, which that code counts in bigrams.

    Each distinct pair is scored once. Time is that of sorting the tokens of the distinct texts;
    memory is linear in them too: 0.3 GiB for 100,000 pairs of 13 tokens without a repeat.

    Args:
        captions: ``n`` captions.
        references: as many references.

    Raises:
        ValueError: there are more captions than references, or fewer.
    """
    pairs = {
        pair: row for row, pair in enumerate(dict.fromkeys(zip(captions, references, strict=True)))
    }
    rows = [pairs[pair] for pair in zip(captions, references, strict=True)]
    numbers = {text: row for row, text in enumerate(dict.fromkeys((*captions, *references)))}
    words, lengths = _numbered_words(numbers)
    repeats = np.zeros(len(numbers), dtype=np.int64)
    for text, count in Counter(references).items():
        repeats[numbers[text]] = count
    said, wanted = (
        np.array([numbers[pair[side]] for pair in pairs], dtype=np.int64) for side in (0, 1)
    )
    cosines = np.zeros(len(pairs))
    distinct = np.zeros(len(numbers), dtype=bool)
    for grams in _grams(words, lengths):
        owner, gram = grams.text, grams.gram
        in_references = np.bincount(gram, repeats[owner], grams.distinct)
        rarity = np.log(len(references)) - np.log(np.maximum(1, in_references))
        weights = grams.count * rarity[gram]
        norms = np.sqrt(np.bincount(owner, weights**2, len(numbers)))
        del owner, gram
        distinct |= norms > 0
        both = norms[said] * norms[wanted]
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            products = _clipped_products(grams, weights, said[part], wanted[part])
            some = np.zeros(len(products))
            cosines[part] += np.divide(products, both[part], out=some, where=both[part] > 0)
    bigrams = np.maximum(lengths - 1, 0)
    apart = (bigrams[said] - bigrams[wanted]) ** 2
    scores = HIGHEST * cosines / ORDERS * np.exp(-apart / (2 * SIGMA**2))
    # A text with itself may end a hair above.
    return CiderScores(np.minimum(scores, HIGHEST)[rows], int(repeats[~distinct].sum()))


def _numbered_words(texts: Iterable[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The words of all texts one after another, equal ones with one number, int32 ``[words]``; and
    how many each text has, int32 ``[texts]``."""
    numbers: dict[str, int] = {}
    words, lengths = array("i"), array("i")
    for text in texts:
        said = plain_words(text).split()
        lengths.append(len(said))
        words.extend(numbers.setdefault(word, len(numbers)) for word in said)
    return np.frombuffer(words, np.int32), np.frombuffer(lengths, np.int32)


def _grams(words: NDArray[np.int32], lengths: NDArray[np.int32]) -> Iterator[_Grams]:
    """The n-grams of every order that there is one of; an n-gram is numbered by the one before its
    last word, and that word.

    Args:
        words: as :func:`_numbered_words` gives.
        lengths: the same.
    """
    distinct_words = int(words.max(initial=-1)) + 1
    text = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    ends = np.cumsum(lengths, dtype=np.int64)
    starts, gram = np.arange(len(words)), words
    for order in range(1, ORDERS + 1):
        if order > 1:
            inside = starts + order <= ends[text[starts]]
            starts = starts[inside]
            longer = gram[inside].astype(np.int64) * distinct_words + words[starts + order - 1]
            gram = np.unique(longer, return_inverse=True)[1].astype(np.int32)
            del longer, inside
        if not len(gram):
            return
        distinct = int(gram.max()) + 1
        keys = text[starts].astype(np.int64) * distinct + gram
        keys, count = np.unique(keys, return_counts=True)
        yield _Grams(keys, count.astype(np.int32), distinct)


def _clipped_products(
    grams: _Grams,
    weights: NDArray[np.float64],
    said: NDArray[np.int64],
    wanted: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Of every pair, the sum over n-grams of ``min(caption's weight, reference's) reference's``.

    Args:
        grams: of all texts.
        weights: of its entries, float64 ``[entries]``.
        said: number of the caption, int64 ``[pairs]``.
        wanted: number of the reference, int64 ``[pairs]``.
    """
    begin, end = (np.searchsorted(grams.keys, text * grams.distinct) for text in (said, said + 1))
    sizes = end - begin
    pair = np.repeat(np.arange(len(said)), sizes)
    entry = np.arange(len(pair)) + np.repeat(begin - (np.cumsum(sizes) - sizes), sizes)
    sought = wanted[pair] * grams.distinct + grams.keys[entry] % grams.distinct
    found = np.minimum(np.searchsorted(grams.keys, sought), len(grams.keys) - 1)
    of_reference = np.where(grams.keys[found] == sought, weights[found], 0.0)
    products = np.minimum(weights[entry], of_reference) * of_reference
    return np.bincount(pair, products, len(said)).astype(np.float64)
