"""The threshold for a wanted precision: exact tails, what is promised, and its edges."""

import math
from fractions import Fraction

import numpy as np
import pytest

from compositional_prompts.enhancement.calibration.abstention import (
    DOUBT,
    binomial_tail,
    choose_abstention,
    least_products,
)


def exact_tail(successes, draws, rate):
    rate = Fraction(rate)
    return sum(
        math.comb(draws, k) * rate**k * (1 - rate) ** (draws - k) for k in range(successes + 1)
    )


@pytest.mark.parametrize(
    ("successes", "draws", "rate"),
    [(0, 22, 0.1), (3, 60, 0.1), (40, 400, 0.1), (7, 9, 0.75), (200, 1000, 0.25), (5, 5, 0.5)],
)
def test_tails_are_those_of_exact_fractions(successes, draws, rate):
    expected = float(exact_tail(successes, draws, rate))
    assert binomial_tail(successes, draws, rate) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.9, 0.97])
def test_the_least_products_are_the_fewest(wanted):
    def shows(products):
        allowed = Fraction(1 - wanted)
        return exact_tail(int(products * allowed / 2 + Fraction(1, 10**9)), products, allowed)

    least = least_products(wanted)
    assert shows(least) <= DOUBT
    assert all(shows(products) > DOUBT for products in range(1, least))
    assert (least_products(0.9), least_products(0.99)) == (38, 388)


def test_a_precision_near_one_takes_many_products_and_no_time():
    assert least_products(0.999999) > 10**6


def population(random, images):
    """A word's probability, and whether it is true: with a probability of its own."""
    probability = random.uniform(0.3, 1, images).astype(np.float32)
    return probability, random.uniform(size=images) < probability**1.5


def test_the_promise_is_kept():
    """In nine of ten draws at least, the precision of all that may come is what was wanted."""
    random = np.random.default_rng(11)
    kept, coverages = [], []
    edges = np.linspace(0, 1, 2000)
    for _ in range(300):
        probability, right = population(random, 500)
        found = choose_abstention(probability, right, np.arange(500), 0.8)
        coverages.append(found.coverage)
        if found.below is None:
            kept.append(True)
            continue
        above = edges[edges >= max(found.below, 0.3)]
        kept.append((above**1.5).mean() >= 0.8)
    assert np.mean(kept) >= 0.87  # 0.9 less two standard errors of 300 draws
    assert np.mean(coverages) > 0.25


def test_sisters_of_one_product_do_not_count_as_many():
    random = np.random.default_rng(13)
    probability, right = population(random, 120)
    right[probability > 0.55] = True
    alone = choose_abstention(probability, right, np.arange(120), 0.8)
    four = [np.repeat(values, 4) for values in (probability, right, np.arange(120))]
    sisters = choose_abstention(*four, 0.8)
    assert alone.products == sisters.products == 120
    assert sisters.below >= alone.below
    assumed = choose_abstention(four[0], four[1], np.arange(480), 0.8)
    assert assumed.below <= alone.below


def test_images_are_written_from_the_threshold_on_in_float32():
    probability = np.random.default_rng(1).uniform(0.5, 1, 500).astype(np.float32)
    found = choose_abstention(probability, probability > 0.6, np.arange(500), 0.9)
    written = probability >= np.float32(found.below)
    assert written.mean() == found.coverage
    assert (probability > 0.6)[written].mean() == found.precision


def test_the_order_of_images_does_not_matter():
    random = np.random.default_rng(17)
    probability, right = population(random, 400)
    probability, products = probability.round(2), np.arange(400) // 2
    order = random.permutation(400)
    one = choose_abstention(probability, right, products, 0.7)
    assert one == choose_abstention(probability[order], right[order], products[order], 0.7)


def test_all_right_all_wrong_all_tied():
    probability = np.linspace(0.1, 1, 100).astype(np.float32)
    products, yes = np.arange(100), np.ones(100, bool)
    everything = choose_abstention(probability, yes, products, 0.9)
    assert (everything.below, everything.coverage, everything.precision) == (
        float(probability[0]), 1, 1,
    )  # fmt: skip
    nothing = choose_abstention(probability, ~yes, products, 0.9)
    assert (nothing.below, nothing.coverage, nothing.precision) == (None, 0, None)
    tied = np.full(100, 0.5, np.float32)
    assert choose_abstention(tied, yes, products, 0.9).below == 0.5
    assert choose_abstention(tied, products < 80, products, 0.9).below is None


def test_too_few_products_and_none():
    probability, yes = np.full(30, 0.9, np.float32), np.ones(30, bool)
    few = choose_abstention(probability, yes, np.arange(30), 0.9)
    assert (few.below, few.products, few.least_products) == (None, 30, least_products(0.9))
    none = choose_abstention(probability[:0], yes[:0], np.arange(0), 0.9)
    assert (none.below, none.products, none.coverage) == (None, 0, 0)


@pytest.mark.parametrize("wanted", [0, 1, 1.5, math.nan])
def test_a_precision_that_nothing_shows_is_refused(wanted):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        choose_abstention(np.float32([0.5]), np.array([True]), np.array([0]), wanted)


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"found nan"):
        choose_abstention(np.float32([np.nan]), np.array([True]), np.array([0]), 0.9)
