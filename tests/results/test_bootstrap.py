"""Intervals against a naive resampling of products, one draw and one image after the other."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import pytest
from numpy.typing import NDArray

from compositional_prompts.results import bootstrap as module
from compositional_prompts.results.bootstrap import (
    NOTHING,
    Bootstrap,
    Interval,
    ProductCodes,
    beside,
    product_codes,
)


def percentile(values: Sequence[float], share: float) -> float:
    """By its definition: a straight line between the two values around it."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def naive(
    codes: NDArray[np.int64],
    values: NDArray[np.float64],
    known: NDArray[np.bool_],
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """The interval of a mean, by a list of the images of every draw."""
    products = int(codes.max()) + 1
    random = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        times = Counter(random.integers(0, products, products).tolist())
        total, images = 0.0, 0
        for code, value, counts in zip(
            codes.tolist(), values.tolist(), known.tolist(), strict=True
        ):
            if counts:
                total += value * times[code]
                images += times[code]
        if images:
            means.append(total / images)
    return percentile(means, 0.025), percentile(means, 0.975)


def test_means_are_those_of_a_naive_loop() -> None:
    random = np.random.default_rng()
    codes = random.permutation(np.concatenate([np.arange(20), random.integers(0, 20, 40)]))
    values = random.normal(size=(60, 3))
    known = random.random((60, 3)) < 0.7
    found = Bootstrap(codes, draws=200, seed=5).means(np.where(known, values, np.nan), known)
    for column, one in enumerate(found):
        expected = naive(codes, values[:, column], known[:, column], 200, 5)
        assert one.value == pytest.approx(values[known[:, column], column].mean(), rel=1e-12)
        assert (one.low, one.high) == pytest.approx(expected, rel=1e-9)
        assert one.products == len(set(codes[known[:, column]].tolist()))


def test_differences_are_paired_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng()
    codes, noise = np.repeat(np.arange(30), 4), random.normal(size=120)
    first, second = noise + 0.5, noise  # all that they differ by is the same everywhere
    whole = Bootstrap(codes, draws=300)
    assert whole.difference(first, second).low == pytest.approx(0.5)
    assert whole.difference(first, second).high == pytest.approx(0.5)
    apart = whole.mean(first)
    assert apart.low is not None and apart.high is not None and apart.high - apart.low > 0.05
    known = random.random(120) < 0.5
    monkeypatch.setattr(module, "BLOCK", 70)
    monkeypatch.setattr(module, "KEPT", 0)
    # To the last digit but one: how a matrix product is cut is the library's affair.
    cut = Bootstrap(codes, draws=300)
    for one, other in (
        (cut.mean(first), apart),
        (cut.difference(first, second, known), whole.difference(first, second, known)),
    ):
        assert astuple(one) == pytest.approx(astuple(other), rel=1e-12)


def test_the_interval_covers_the_mean_of_all_products() -> None:
    """Of 200 samples of 60 products, all photos of a product right or wrong together."""
    random = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        right = np.repeat(random.random(60) < 0.7, 3)
        one = Bootstrap(np.repeat(np.arange(60), 3), draws=400, seed=seed).mean(right)
        assert one.low is not None and one.high is not None
        covered += one.low <= 0.7 <= one.high
    assert 0.88 <= covered / 200 <= 0.99  # by images alone it would be 0.7


@pytest.mark.parametrize(
    ("codes", "values", "known", "expected"),
    [
        ([], [], [], NOTHING),
        ([0, 0, 1], [1, 1, 1], [False] * 3, NOTHING),
        ([0, 0], [0, 1], [True] * 2, Interval(0.5, None, None, 1)),
        ([0, 1, 1], [0.25] * 3, [True] * 3, Interval(0.25, 0.25, 0.25, 2)),
        ([0, 1, 2], [0, 1, 1], [False, True, True], Interval(1.0, 1.0, 1.0, 2)),
    ],
)
def test_few_images(
    codes: list[int], values: list[float], known: list[bool], expected: Interval
) -> None:
    assert Bootstrap(codes, draws=50).mean(values, known) == expected


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = Bootstrap(np.arange(500) % 97).mean(np.full(500, 1 / 3))
    assert found.low == found.high == found.value


def test_many_products_are_drawn_in_groups() -> None:
    """The interval is that of the normal distribution, of the spread over all products."""
    random = np.random.default_rng(4)
    codes = np.arange(150_000) % 50_000
    right = random.random(50_000)[codes] < 0.3
    bootstrap = Bootstrap(codes, draws=2_000)
    assert bootstrap.size == 10_000
    found = bootstrap.mean(right)
    wide = 1.96 * np.bincount(codes, right).std() / 3 / math.sqrt(50_000)
    assert found.products == 50_000 and found.value == pytest.approx(right.mean())
    assert found.low == pytest.approx(right.mean() - wide, abs=0.1 * wide)
    assert found.high == pytest.approx(right.mean() + wide, abs=0.1 * wide)


def test_a_million_images_take_little_memory() -> None:
    codes = np.arange(1_000_000) % 100_000
    bootstrap = Bootstrap(codes, draws=20)
    tracemalloc.start()
    found = bootstrap.mean(codes % 3 == 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * 2**20
    assert found.products == 100_000 and found.low is not None


def test_means_by_name_are_the_same_means() -> None:
    bootstrap = Bootstrap([0, 1, 1, 2, 3], draws=100)
    values, known = [1, 0, 1, 1, 0], [True, True, False, True, True]
    found = bootstrap.named({"all": (values, None), "known": (values, known)})
    assert found == {"all": bootstrap.mean(values), "known": bootstrap.mean(values, known)}
    assert bootstrap.named({}) == {}


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], [math.inf, 0.0]])
def test_values_that_have_no_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values of 2 images"):
        Bootstrap([0, 1], draws=10).mean(values)


def test_products_are_numbered_in_their_order_and_figures_stand_beside_intervals() -> None:
    assert product_codes(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
    assert product_codes([]).tolist() == []


def test_products_in_blocks_have_the_codes_of_all_at_once() -> None:
    rng = np.random.default_rng(7)
    names = [f"p{number}" for number in rng.integers(0, 400, 1000)]
    codes = ProductCodes()
    for start in range(0, 1000, 90):
        codes.add(names[start : start + 90])
    assert codes.codes().tolist() == product_codes(names).tolist()
    assert ProductCodes().codes().tolist() == []
    assert beside({"accuracy": Interval(0.5, 0.25, 0.75, 12), "none": NOTHING}) == {
        "accuracy": 0.5,
        "accuracy_interval": [0.25, 0.75],
        "none": None,
        "none_interval": None,
    }
