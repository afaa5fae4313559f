"""Which products train, validate and test: by a hash of each, on its own or among all others."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.splitting.parameters import MadeAssignment, SplitFractions
from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES

log = logging.getLogger(__name__)

_DIGEST_BYTES: Final = 16
_HASHES: Final = 2.0**64
_AT_ONCE: Final = 65_536


class SplitError(ValueError):
    """The catalog cannot be split as the parameters ask."""


def seeded_digest(seed: int, *names: str) -> bytes:
    """What a name is ranked by: 16 bytes, others for every seed."""
    named = "\0".join((str(seed), *names)).encode()
    return hashlib.blake2b(named, digest_size=_DIGEST_BYTES).digest()


def seeded_share(seed: int, *names: str) -> float:
    """The same as a number, uniform from 0 to below 1."""
    return int.from_bytes(seeded_digest(seed, *names)[:6]) / 2**48


def split_products(
    product_ids: pa.StringArray, fractions: SplitFractions, seed: int, assignment: MadeAssignment
) -> NDArray[np.int8]:
    """Assign every product to train, val or test.

    ``exact`` ranks products by a hash of seed and name, and cuts the ranking at the fractions. So
    the fractions are met as closely as whole products allow (largest remainder, and at least one
    product each), and added products move those near a cut.

    ``stable`` takes the hash of each product as a place between 0 and 1, which the fractions part:
    what else there is does not matter, so that a product stays where it is as others come and go.
    Of ``n`` products a split of the share ``f`` is off by about the root of ``f (1 - f) / n``. A
    split that none fall into borrows the product nearest to it from one that has several, until
    one of its own comes; the log says so.

    Args:
        product_ids: the products, each once; their order does not matter.
        fractions: of the products, summing to 1.
        seed: another seed, another assignment.
        assignment: as above.

    Returns:
        For every product, the position of its split in :data:`SPLIT_NAMES`; int8 ``[n]``.

    Raises:
        SplitError: there are fewer products than splits.
    """
    if len(product_ids) < len(SPLIT_NAMES):
        raise SplitError(
            f"the catalog has {len(product_ids)} product{'' if len(product_ids) == 1 else 's'}, "
            f"too few for {', '.join(SPLIT_NAMES)}: at least {len(SPLIT_NAMES)} are needed, since "
            "images of one product stay together. Add products; or, where it is several, give each "
            "a product_id."
        )
    shares = [getattr(fractions, name) for name in SPLIT_NAMES]
    if assignment == "exact":
        return rank_products(product_ids, shares, seed)
    return _by_place(_digests(product_ids, seed)[:, 0] / _HASHES, shares)


def rank_products(
    product_ids: pa.StringArray, shares: Sequence[float], seed: int
) -> NDArray[np.int8]:
    """Part products into ``shares`` as :func:`split_products` does, ``exact``.

    Args:
        product_ids: as there, at least one a share.
        shares: of the products, summing to 1.
        seed: as there.

    Returns:
        For every product, the position of its share; int8 ``[n]``.
    """
    return _by_rank(_digests(product_ids, seed), shares)


def _digests(product_ids: pa.StringArray, seed: int) -> NDArray[np.uint64]:
    """What products are ranked by; uint64 ``[n, 2]``."""
    digests = np.empty((len(product_ids), 2), ">u8")
    for start in range(0, len(product_ids), _AT_ONCE):
        names = product_ids[start : start + _AT_ONCE].to_pylist()
        found = b"".join(seeded_digest(seed, "product", name) for name in names)
        digests[start : start + len(names)] = np.frombuffer(found, ">u8").reshape(-1, 2)
    return digests


def _by_rank(digests: NDArray[np.uint64], shares: Sequence[float]) -> NDArray[np.int8]:
    splits = np.empty(len(digests), np.int8)
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    splits[order] = np.repeat(np.arange(len(shares)), _split_sizes(len(digests), shares))
    return splits


def _split_sizes(products: int, shares: Sequence[float]) -> list[int]:
    sizes = [math.floor(products * share) for share in shares]
    splits = range(len(shares))
    remainders = [products * share - size for share, size in zip(shares, sizes, strict=True)]
    for split in sorted(splits, key=lambda split: -remainders[split])[: products - sum(sizes)]:
        sizes[split] += 1
    for split in splits:
        if sizes[split] == 0:
            sizes[max(splits, key=lambda other: sizes[other])] -= 1
            sizes[split] = 1
    return sizes


def _by_place(places: NDArray[np.float64], shares: Sequence[float]) -> NDArray[np.int8]:
    edges = np.array([0.0, *np.cumsum(shares)[:-1], 1.0])
    splits = (np.searchsorted(edges[1:-1], places, side="right")).astype(np.int8)
    for split, name in enumerate(SPLIT_NAMES):
        sizes = np.bincount(splits, minlength=len(shares))
        if sizes[split]:
            continue
        away = np.maximum(edges[split] - places, places - edges[split + 1])
        away[sizes[splits] == 1] = np.inf
        # Of two equally near, the one of the lower hash: the order of the products says nothing.
        nearest = int(np.lexsort((places, away))[0])
        log.warning(
            "warning: none of %d products falls into %s, which borrows one of %s until one does; "
            "split.assignment: exact meets the fractions.",
            len(places),
            name,
            SPLIT_NAMES[splits[nearest]],
        )
        splits[nearest] = split
    return splits
