"""Intervals of 95 % by bootstrap over products, not images: photos of one product are alike.

As many products as there are, are drawn with replacement, all images of each with it (the cluster
bootstrap: Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8; Field &
Welsh, J. R. Statist. Soc. B 69, 2007), and the figure is computed of them: 10,000 times. The
interval is from the 2.5th to the 97.5th percentile of what came out (Efron & Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 13). Percentiles never leave the range of a figure,
and one rule does for means, for areas under curves and for differences. Not BCa, whose correction
by a jackknife would compute every curve once more for every product.

A draw is how often each product came: a row of multinomial counts. Sums over the images of every
product are all that a mean needs, so one matrix product gives every mean of every metric of a block
of draws. More than 10,000 products are put into 10,000 groups, one after the other in turn, and
groups are drawn: groups of independent products are independent too, and so many of them give the
spread to 1 % (the random groups of Wolter, "Introduction to Variance Estimation", 2007, chapter 2).
So a figure takes the same time of a million products as of 10,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from compositional_prompts.files.digests import content_digest

SEED: Final = 12
"""Of the draws. It stands here and is no parameter: an interval must not be chosen among many."""

DRAWS: Final = 10_000
"""So many draws give each end of an interval to about 1 % of its width."""

MOST_DRAWN: Final = 10_000
"""Products that are drawn one by one; more are drawn in so many groups."""

BLOCK: Final = 1_000_000
"""Counts in memory at a time."""

KEPT: Final = 32_000_000
"""Up to so many counts, a byte each, are kept from one figure to the next."""

TRUSTED_PRODUCTS: Final = 10
"""With fewer, percentiles are far too narrow: too few different products can be drawn."""

QUANTILES: Final = (0.025, 0.975)

Column = tuple[ArrayLike, ArrayLike | None]
"""Values of every image ``[n]``, and which of them are known, bool ``[n]``; None for all."""

FigurePath = tuple[str, ...]
"""The keys by which a figure is found in metrics."""

_Key = TypeVar("_Key")
Counts = NDArray[np.float64]
Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval.

    Attributes:
        value: of all images; None where nothing is known.
        low: 2.5th percentile, and
        high: 97.5th; None where nothing is known, or of one product alone, which says nothing of
            others. Both are the value where all images have the same.
        products: with an image that counts.
    """

    value: float | None
    low: float | None
    high: float | None
    products: int

    @property
    def bounds(self) -> list[float] | None:
        """As metrics have it: ``[low, high]``, or None."""
        return None if self.low is None or self.high is None else [self.low, self.high]


NOTHING: Final = Interval(None, None, None, 0)


def product_codes(product_ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for every product, in the order in which they come first, int64 ``[n]``."""
    if isinstance(product_ids, pa.ChunkedArray):
        product_ids = product_ids.combine_chunks()
    ids = product_ids if isinstance(product_ids, pa.Array) else pa.array(product_ids, pa.string())
    encoded = ids.cast(pa.string()).dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)


class ProductCodes:
    """As :func:`product_codes`, of products that come in blocks: 8 bytes an image, and no names.

    They are told apart by 64 bits of a digest: two of a million are one by a chance of 3e-8.
    """

    def __init__(self) -> None:
        self._digests = [np.empty(0, np.uint64)]

    def add(self, product_ids: Sequence[str]) -> None:
        """Append the products of the next images."""
        digests = b"".join(content_digest(name.encode())[:8] for name in product_ids)
        self._digests.append(np.frombuffer(digests, np.uint64))

    def codes(self) -> NDArray[np.int64]:
        """Of all images, int64 ``[n]``."""
        digests = np.concatenate(self._digests)
        _, first, code = np.unique(digests, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[code]


class Bootstrap:
    """Draws of the products of some images; every figure has the same draws, so they are paired.

    Memory is :data:`KEPT` bytes, some blocks, and what a figure is computed of: never draws times
    images.

    Attributes:
        draws: how many there are.
        drawn: which of the products, or of their groups, that are drawn every image is of, int64
            ``[n]``.
        size: how many products or groups are drawn from, each time as many.
    """

    def __init__(self, products: ArrayLike, *, draws: int = DRAWS, seed: int = SEED) -> None:
        """Draw nothing yet.

        Args:
            products: number of the product of every image, 0 and up, int ``[n]``; of no image too.
            draws: how many.
            seed: decides them.
        """
        self._products = np.asarray(products, np.int64)
        count = int(self._products.max()) + 1 if len(self._products) else 0
        self.size = min(count, MOST_DRAWN)
        self.drawn = self._products % max(self.size, 1)
        self.draws = draws
        self._seed = seed
        self._kept: list[NDArray[np.uint8]] = []

    def counts(self) -> Iterator[Counts]:
        """How often each product or group came, float64 ``[draws of a block, size]``, in blocks.

        The rows of all blocks together are the same at every call and for every size of a block.
        """
        if self._kept:
            for kept in self._kept:
                yield kept.astype(np.float64)
            return
        blocks = []
        for counts in self._draw():
            if self.draws * self.size <= KEPT:
                # More than 255 of one come in no lifetime: their mean is 1.
                blocks.append(counts.astype(np.uint8))
            yield counts.astype(np.float64)
        self._kept = blocks

    def _draw(self) -> Iterator[NDArray[np.int64]]:
        size, random = self.size, np.random.default_rng(self._seed)
        rows = max(BLOCK // max(size, 1), 1)
        for start in range(0, self.draws if size else 0, rows):
            block = min(rows, self.draws - start)
            places = random.integers(0, size, (block, size))
            places += np.arange(block)[:, None] * size
            yield np.bincount(places.ravel(), minlength=block * size).reshape(block, size)

    def samples(self, figures: Callable[[Counts], Samples]) -> Samples:
        """What ``figures`` makes of every draw, float64 ``[draws, k]``.

        Args:
            figures: counts float64 ``[d, size]`` to figures ``[d, k]``; NaN where a figure has
                no image in a draw.
        """
        found = [figures(counts) for counts in self.counts()]
        return np.concatenate(found) if found else np.empty((0, 0))

    def sums(self, values: ArrayLike) -> NDArray[np.float64]:
        """Sums over the images of whatever is drawn: ``[n, k]`` to float64 ``[size, k]``."""
        columns = [np.bincount(self.drawn, column, self.size) for column in np.asarray(values).T]
        return np.stack(columns, axis=1) if columns else np.empty((self.size, 0))

    def mean(self, values: ArrayLike, known: ArrayLike | None = None) -> Interval:
        """The mean of the images that are known.

        Args:
            values: of every image, numbers or bool ``[n]``; of images not known anything.
            known: which images count, bool ``[n]``; None for all.
        """
        column = None if known is None else np.asarray(known, np.bool_)[:, None]
        return self.means(np.asarray(values, np.float64)[:, None], column)[0]

    def means(self, values: ArrayLike, known: ArrayLike | None = None) -> list[Interval]:
        """Many means at once: as :meth:`mean`, ``[n, k]`` each (``known`` ``[n, 1]`` too).

        Raises:
            ValueError: they are not of as many images as there are products, or a value that
                counts is NaN or infinite.
        """
        numbers = np.asarray(values)
        mask = np.broadcast_to(True if known is None else np.asarray(known), numbers.shape)
        columns = {column: (numbers[:, column], mask[:, column]) for column in range(mask.shape[1])}
        return list(self.named(columns).values())

    def named(self, columns: Mapping[_Key, Column]) -> dict[_Key, Interval]:
        """Many means at once, by name: the values of each and which of them are known, ``[n]``.

        Beyond the columns memory is that of one of them, and of their sums.

        Raises:
            ValueError: as :meth:`means`.
        """
        if not columns:
            return {}
        top, bottom = np.empty((2, self.size, len(columns)))
        products = []
        for column, (values, known) in enumerate(columns.values()):
            numbers = np.asarray(values, np.float64)
            mask = np.ones(numbers.shape, np.bool_)
            if known is not None:
                mask &= np.asarray(known, np.bool_)
            if len(numbers) != len(self.drawn) or not np.isfinite(numbers[mask]).all():
                raise ValueError(
                    f"Expected finite values of {len(self.drawn)} images, found {len(numbers)}, of "
                    f"which {np.count_nonzero(mask & ~np.isfinite(numbers))} are not finite."
                )
            top[:, column] = np.bincount(self.drawn, np.where(mask, numbers, 0.0), self.size)
            bottom[:, column] = np.bincount(self.drawn, mask, self.size)
            products.append(self.products(mask))
        both = np.concatenate([top, bottom], axis=1)

        def drawn(counts: Counts) -> Samples:
            found = counts @ both
            return _ratio(found[:, : len(columns)], found[:, len(columns) :])

        samples = self.samples(drawn)
        whole = _ratio(top.sum(axis=0), bottom.sum(axis=0)).tolist()
        return {
            name: interval(whole[column], samples[:, column], products[column])
            if len(self.drawn)
            else NOTHING
            for column, name in enumerate(columns)
        }

    def products(self, images: ArrayLike) -> int:
        """How many products some images are of, bool ``[n]``."""
        return int(np.count_nonzero(np.bincount(self._products[np.asarray(images, np.bool_)])))

    def difference(self, a: ArrayLike, b: ArrayLike, known: ArrayLike | None = None) -> Interval:
        """The mean of ``a`` less that of ``b`` on the same images: paired; as :meth:`mean`."""
        return self.mean(np.asarray(a, np.float64) - np.asarray(b, np.float64), known)


def interval(value: float, samples: Samples, products: int) -> Interval:
    """The interval of a figure, by what it was in every draw.

    Args:
        value: of all images; NaN where it has none.
        samples: float64 ``[draws]``; NaN where a draw has no image of it, which do not count.
        products: with an image that counts.
    """
    if np.isnan(value):
        return NOTHING
    found = samples[~np.isnan(samples)]
    if products < 2 or not len(found):
        return Interval(value, None, None, products)
    low, high = np.quantile(found, QUANTILES).tolist()
    if np.ptp(found) <= 1e-12 * max(1.0, abs(value)):  # all equal, but for the order of sums
        low = high = value
    return Interval(value, low, high, products)


def beside(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """As metrics have figures: each under its name, and its interval under ``{name}_interval``."""
    return nested({(name,): one for name, one in intervals.items()})


def nested(intervals: Mapping[FigurePath, Interval]) -> dict[str, Any]:
    """As :func:`beside`, of figures that stand at paths of keys."""
    found: dict[str, Any] = {}
    for (*keys, name), one in intervals.items():
        place = found
        for key in keys:
            place = place.setdefault(key, {})
        place |= {name: one.value, f"{name}_interval": one.bounds}
    return found


def _ratio(sums: NDArray[np.float64], images: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where there are no images."""
    found = np.full(images.shape, np.nan)
    np.divide(sums, images, out=found, where=images > 0)
    return found
