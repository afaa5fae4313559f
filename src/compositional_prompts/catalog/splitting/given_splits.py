"""The splits that a data set brings, taken for captions as for pairs."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compositional_prompts.catalog.splitting.parameters import SplitFractions
from compositional_prompts.catalog.splitting.product_splits import SplitError, rank_products
from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES

log = logging.getLogger(__name__)

_TRAIN: Final = SPLIT_NAMES.index("train")


class GivenSplits(NamedTuple):
    """The splits of ``n`` images, as positions in :data:`SPLIT_NAMES`.

    Attributes:
        captions: int8 ``[n]``.
        pairs: as ``captions``, but for images that must stay in training; -1 where a labelled
            image takes no part. Images without a label have a place here too.
        moved: how many images had to stay in training.
        left_out: how many images of val are of a pair that training never sees and test has too.
        across: how many products have images in several splits.
    """

    captions: NDArray[np.int8]
    pairs: NDArray[np.int8]
    moved: int
    left_out: int
    across: int


def given_splits(
    labels: pa.Table,
    product: NDArray[np.int32],
    pair: NDArray[np.int32],
    fractions: SplitFractions,
    seed: int,
) -> GivenSplits:
    """Take the splits of a data set as they are.

    One that lacks val or test, as CIFAR does, borrows: products of train, ranked by the hash that
    ``exact`` ranks all by, in the share that ``fractions`` give it of train and what is borrowed.
    Where a pair would lose all its images so, they stay in the pair split's train, and are
    counted. A pair that training never sees is either of val or of test: where it has images of
    both, those of val take no part in the pair split, and are counted.

    Args:
        labels: the columns ``image_id``, ``product_id`` and ``pair_split`` of the catalog.
        product: the number of every image's product; ``[n]``.
        pair: the number of every image's pair, -1 without a label; ``[n]``.
        fractions: of products.
        seed: of what is borrowed.

    Raises:
        SplitError: an image has no split or one of an unknown name, or none is of train, or train
            has too few products to borrow from.
    """
    given = _named(labels)
    captions = given.copy()
    there = np.bincount(given, minlength=len(SPLIT_NAMES))
    if not there[_TRAIN]:
        raise SplitError(
            "split.assignment is given, and the data set has no image of train: take its other "
            "splits as they come, with exact or stable."
        )
    missing = [split for split in range(len(SPLIT_NAMES)) if not there[split]]
    if missing:
        train = given == _TRAIN
        captions[train] = _borrowed(labels, train, missing, fractions, seed)
    pairs = captions.copy()
    labelled = pair >= 0
    count = int(pair.max(initial=-1)) + 1
    lost = _has(pair, labelled & (given == _TRAIN), count) & ~_has(
        pair, labelled & (captions == _TRAIN), count
    )
    moved = labelled & (given == _TRAIN) & np.append(lost, False)[pair]
    pairs[moved] = _TRAIN
    val, test = (SPLIT_NAMES.index(name) for name in ("val", "test"))
    both = ~_has(pair, labelled & (pairs == _TRAIN), count) & _has(
        pair, labelled & (pairs == test), count
    )
    left_out = labelled & (pairs == val) & np.append(both, False)[pair]
    pairs[left_out] = -1
    placed = np.unique(np.stack([product, captions]), axis=1)[0]
    across = int((np.bincount(placed) > 1).sum())
    if across:
        log.warning(
            "warning: %d products have photos in several of the data set's splits: a model may be "
            "tested on products that it was trained on.",
            across,
        )
    return GivenSplits(captions, pairs, int(moved.sum()), int(left_out.sum()), across)


def _named(labels: pa.Table) -> NDArray[np.int8]:
    """The split of every image by its position; ``[n]``."""
    column = labels["pair_split"].cast(pa.string())
    found = pc.fill_null(pc.index_in(column, value_set=pa.array(SPLIT_NAMES)), -1).to_numpy()
    without = np.flatnonzero(found < 0)
    if len(without):
        row = int(without[0])
        name = column[row].as_py()
        raise SplitError(
            f"split.assignment is given, and image {labels['image_id'][row].as_py()!r} has "
            + ("no split" if name is None else f"the split {name!r}")
            + f", expected {', '.join(SPLIT_NAMES)}. Only data sets that bring a split can be "
            "split so; for others set it to null."
        )
    return np.asarray(found, np.int8)


def _borrowed(
    labels: pa.Table,
    train: NDArray[np.bool_],
    missing: list[int],
    fractions: SplitFractions,
    seed: int,
) -> NDArray[np.int8]:
    """The splits of the images of train, some of which go to those that are missing."""
    products = labels["product_id"].cast(pa.string()).filter(pa.array(train))
    names = pc.unique(products)
    splits = np.array([_TRAIN, *missing], np.int8)
    shares = np.array([getattr(fractions, SPLIT_NAMES[split]) for split in splits])
    shares /= shares.sum()
    if len(names) < len(splits):
        raise SplitError(
            f"the data set has no {' nor '.join(SPLIT_NAMES[split] for split in missing)}, and "
            f"{len(names)} products of train, too few to take some: {len(splits)} are needed."
        )
    log.info(
        "the data set has no %s: %s of its products of train",
        " nor ".join(SPLIT_NAMES[split] for split in missing),
        " and ".join(f"{share:.1%}" for share in shares[1:]),
    )
    of_product = splits[rank_products(names, shares.tolist(), seed)]
    place = pc.index_in(products, value_set=names).to_numpy()
    return np.asarray(of_product[place], np.int8)


def _has(pair: NDArray[np.int32], chosen: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Which of ``count`` pairs have one of the images chosen; ``[count]``."""
    return np.bincount(pair[chosen], minlength=count) > 0
