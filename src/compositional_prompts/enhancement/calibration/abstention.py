"""The least probability at which a word is written, for a wanted precision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.enhancement.calibration.calibration_error import checked_probability

DOUBT = 0.1
"""How often the rule may be wrong: with draws of validation products, in one of ten at most the
precision is below what is wanted. The papers' usual choice."""
FIRST_SHARE = 0.2
"""Of the validation products, what the strictest threshold that is tried keeps. On photographs of
footwear, parted 200 times, words were then written each time; with 38 of 767 products in 78 of 100
times only, since two wrong words among so few end the testing."""
RUNGS = 50
"""Thresholds that are tried at most."""


@dataclass(frozen=True)
class Abstention:
    """What a wanted precision asks for.

    Attributes:
        wanted: the precision, above 0 and below 1.
        below: the least probability at which a word is written; None where no threshold reaches
            the precision, so that no word is.
        products: validation products with truth.
        least_products: how many it takes at least before any threshold can be trusted.
        precision: share of the validation words at or above ``below`` that is true; None with it.
        coverage: share of the validation images with truth that have such a word; 0 without.
    """

    wanted: float
    below: float | None
    products: int
    least_products: int
    precision: float | None
    coverage: float


def choose_abstention(
    probability: NDArray[np.float32],
    right: NDArray[np.bool_],
    products: NDArray[np.integer],
    wanted: float,
) -> Abstention:
    """The lowest threshold whose precision is at least ``wanted``, with confidence ``1 - DOUBT``.

    Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052) with fixed sequence testing:
    thresholds are tested from the strictest down, each the hypothesis that more than ``1 - wanted``
    of the words at or above it are wrong, and the last before the first that is not refused is
    taken. Which thresholds are tried follows from the probabilities alone, never from truth: at
    most ``RUNGS``, equally far apart in images, the first with a :data:`FIRST_SHARE` of the
    products, and with as many as :func:`least_products` at least. A stricter first one would be
    refused for a single wrong word more often, and with it all that follow.

    Where every product has one image, the test is the exact binomial one (the threshold is the
    inversion of Clopper and Pearson's bound, 1934). Where products have several, an image's error
    tells of its sisters', and products are what was drawn at random: of a product with a words
    written and e wrong, ``(e - risk a + risk A) / A`` is in 0..1, with A the most images that a
    product has, and its mean is above the allowed risk if and only if the words' is; it is tested
    by the bound of Hoeffding and Bentkus (Bates et al. 2021, arXiv 2101.02703).

    Args:
        probability: of the best words, float32 ``[n]``: validation images with truth.
        right: whether each is true, bool ``[n]``.
        products: code of each image's product, int ``[n]``.
        wanted: the precision, above 0 and below 1.

    Raises:
        ValueError: ``wanted`` or a probability is out of its range.
    """
    if not 0 < wanted < 1:
        raise ValueError(
            f"a wanted precision must be above 0 and below 1, found {wanted}: no number of photos "
            "can show that a rule is never wrong."
        )
    allowed = 1 - wanted
    least = least_products(wanted)
    if not len(probability):
        return Abstention(wanted, None, 0, least, None, 0.0)
    order = np.argsort(-checked_probability(probability), kind="stable")
    falling, wrong = probability[order], np.cumsum(~right[order])
    _, first, images_of = np.unique(products[order], return_index=True, return_counts=True)
    opens = np.zeros(len(order), bool)
    opens[first] = True
    seen, most = np.cumsum(opens), int(images_of.max())
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    ends = ends[seen[ends] >= max(least, FIRST_SHARE * seen[-1])]
    chosen: int | None = None
    for end in _rungs(ends):
        drawn, words = int(seen[end]), int(end) + 1
        # Of the products together; with one image each it is the number of wrong words.
        losses = (int(wrong[end]) - allowed * words) / most + allowed * drawn
        if _p_value(losses, drawn, allowed, exact=most == 1) > DOUBT:
            break
        chosen = int(end)
    if chosen is None:
        return Abstention(wanted, None, int(seen[-1]), least, None, 0.0)
    return Abstention(
        wanted,
        float(falling[chosen]),
        int(seen[-1]),
        least,
        float(1 - wrong[chosen] / (chosen + 1)),
        float((chosen + 1) / len(order)),
    )


def least_products(wanted: float) -> int:
    """The fewest products on which half the allowed errors would show the wanted precision.

    Fewer could show it only without an error or nearly so, and the testing would end at the first
    word that chance made wrong.
    """
    allowed = 1 - wanted
    errors = 0
    # With so many errors, from 2 * errors / allowed products on they are half the allowed ones.
    while (shown := _fewest(errors, allowed)) >= 2 * (errors + 1) / allowed:
        errors += 1
    return max(shown, math.ceil(2 * errors / allowed))


def _fewest(errors: int, allowed: float) -> int:
    """The fewest draws with so many errors that show that fewer than ``allowed`` are wrong."""
    low, high = errors, errors + 1
    while binomial_tail(errors, high, allowed) > DOUBT:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        shows = binomial_tail(errors, middle, allowed) <= DOUBT
        low, high = (low, middle) if shows else (middle, high)
    return high


def binomial_tail(successes: int, draws: int, rate: float) -> float:
    """The probability of at most so many successes in ``draws`` draws.

    Args:
        successes: 0 or more.
        draws: 1 or more.
        rate: of a draw, above 0 and below 1.
    """
    if successes >= draws:
        return 1.0
    numbers = np.arange(1, successes + 1)
    steps = np.log((draws - numbers + 1) / numbers) + math.log(rate) - math.log1p(-rate)
    logs = draws * math.log1p(-rate) + np.concatenate([[0.0], np.cumsum(steps)])
    most = float(logs.max())
    return min(1.0, math.exp(most) * float(np.exp(logs - most).sum()))


def _rungs(ends: NDArray[np.int64]) -> list[int]:
    """At most ``RUNGS`` of the places where a threshold can be, the first and the last of them."""
    if not len(ends):
        return []
    wanted = np.linspace(ends[0], ends[-1], RUNGS)
    return [int(end) for end in np.unique(ends[np.searchsorted(ends, wanted)])]


def _p_value(losses: float, draws: int, allowed: float, *, exact: bool) -> float:
    """Of the hypothesis that the mean loss is above ``allowed``; it was ``losses / draws``."""
    if exact:
        return binomial_tail(round(losses), draws, allowed)
    mean = losses / draws
    if mean >= allowed:
        return 1.0
    bentkus = math.e * binomial_tail(math.ceil(losses - 1e-9), draws, allowed)
    return min(math.exp(-draws * _divergence(mean, allowed)), bentkus)


def _divergence(mean: float, allowed: float) -> float:
    """Kullback and Leibler's, of two coins."""
    inside = (1 - mean) * math.log((1 - mean) / (1 - allowed))
    return inside + (mean * math.log(mean / allowed) if mean > 0 else 0.0)
