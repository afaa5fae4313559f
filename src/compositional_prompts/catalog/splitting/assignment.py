"""Who is trained on, validated on and tested on: of products for captions, of pairs for naming.

Two splits stand beside each other. The caption split divides products, so that no product is seen
on both sides. The pair split is that of compositional zero-shot learning (Purushwalkam et al.,
"Task-driven modular networks for zero-shot compositional learning", ICCV 2019): some pairs of
attribute and object are unseen in training, though each word of them is seen in another pair.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import polars as pl
import pyarrow as pa

from compositional_prompts.catalog.splitting.parameters import Split, SplitFractions
from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLIT_NAMES, SPLITS
from compositional_prompts.prompt.pair import Pair, dotted

log = logging.getLogger(__name__)

LABEL_COLUMNS: Final = ("image_id", "product_id", "attribute", "object", "pair_split")
"""The columns of the catalog that :func:`make_splits` needs."""

_PAIR: Final = ["attribute", "object"]


class SplitError(ValueError):
    """The catalog cannot be split as the parameters ask."""


class Splits(NamedTuple):
    """The split of every image, and the closed world of pairs.

    Attributes:
        images: SPLITS, a row an image, in the order of the catalog.
        pairs: PAIRS, sorted by attribute, then object.
        metrics: how many images, products and pairs are where.
    """

    images: pa.Table
    pairs: pa.Table
    metrics: dict[str, Any]


def make_splits(
    labels: pa.Table, params: Split, seed: int, listed: pa.Table | None = None
) -> Splits:
    """Split the images of a catalog.

    Products are split by :func:`split_products`. Where the data set brings a pair split (any
    labelled image has a ``pair_split``), it is used as it is, and labelled images without one
    take no part in it. Otherwise :func:`choose_unseen` picks the unseen pairs; their images go
    where the pair goes, and those of a seen pair follow their product. A seen pair without an
    image among the training products would be unseen: all its images train in the pair split,
    and are counted.

    The closed world is every pair of the pair split, with those that the data set lists though
    they have no image left, and every combination that has at least one of the words in
    ``params.attributes`` and ``params.objects``.

    Args:
        labels: the columns :data:`LABEL_COLUMNS` of the catalog.
        params: fractions of products, share of unseen pairs, and words beyond the labels.
        seed: the same seed and images give the same splits.
        listed: LISTED_PAIRS; the pairs that the data set lists, none for most data sets.

    Raises:
        SplitError: there are too few products or no labels, or the split that the data set
            brings has an unknown name, an unseen pair in both val and test, or an image of a pair
            that it does not list for that image's split.
    """
    images = pl.DataFrame(labels.select(list(LABEL_COLUMNS)))
    products = split_products(images["product_id"].unique().to_list(), params.fractions, seed)
    images = images.with_columns(
        pl.col("product_id").replace_strict(products, return_dtype=pl.String).alias("caption_split")
    )
    labelled = images.filter(pl.col("attribute").is_not_null())
    if labelled["pair_split"].is_not_null().any():
        pairs, moved = _given_pairs(labelled.filter(pl.col("pair_split").is_not_null()), listed), 0
    else:
        images, pairs, moved = _made_pairs(images, labelled, params, seed)
    images = images.join(
        pairs.select(*_PAIR, pl.col("seen").alias("pair_seen")),
        on=_PAIR,
        how="left",
        maintain_order="left",
    ).with_columns(
        # An image without a label, or left out by the given split, has neither.
        pl.when(pl.col("attribute").is_not_null()).then("pair_split"),
        pl.when(pl.col("pair_split").is_not_null()).then("pair_seen"),
    )
    added = _added_pairs(pairs, params)
    metrics = _metrics(images, pairs, moved) | {"added_pairs": added.height}
    metrics["pairs_without_images"] = pairs.filter(pl.col("images") == 0).height
    world = pl.concat([pairs, added]).sort(_PAIR)
    log.info(
        "images: %s; pairs: %s",
        ", ".join(f"{count} {name}" for name, count in metrics["images"].items()),
        ", ".join(f"{count} {name}" for name, count in metrics["pairs"].items()),
    )
    return Splits(
        images.select(SPLITS.names).to_arrow().cast(SPLITS),
        world.select(PAIRS.names).to_arrow().cast(PAIRS),
        metrics,
    )


def split_products(
    product_ids: Sequence[str], fractions: SplitFractions, seed: int
) -> dict[str, str]:
    """Assign every product to train, val or test.

    Products are ranked by a hash of seed and name, and the ranking is cut at the fractions. So
    the fractions are met as closely as whole products allow (largest remainder, and at least one
    product each), the order of the products does not matter, and added
    products move only those near a cut.

    Args:
        product_ids: the products, each once.
        fractions: of the products, summing to 1.
        seed: another seed, another ranking.

    Returns:
        The split of every product.

    Raises:
        SplitError: there are fewer products than splits.
    """
    sizes = _split_sizes(len(product_ids), fractions)
    ranked = sorted(product_ids, key=lambda name: _rank(seed, "product", name))
    splits = [split for split in SPLIT_NAMES for _ in range(sizes[split])]
    return dict(zip(ranked, splits, strict=True))


def choose_unseen(
    counts: Mapping[Pair, int], share: float, splits: Sequence[str], seed: int
) -> dict[Pair, str]:
    """Choose the pairs that training never sees.

    The pairs are cut into as many runs of similar frequency as pairs are wanted, and each run
    gives one, by a hash of the seed, whose attribute and object both stay in another seen pair;
    runs that have none are made up for by the others. So unseen pairs are spread over frequent
    and rare ones, and there may be fewer than asked for: none, where every pair holds the only
    occurrence of one of its words.

    Args:
        counts: the images of every pair.
        share: of the pairs, between 0 and 1, rounded to whole pairs.
        splits: what the unseen pairs are dealt to in turn, from the most frequent to the rarest.
        seed: another seed, another choice.

    Returns:
        The split of every unseen pair.
    """
    wanted = math.floor(share * len(counts) + 0.5)
    attributes = Counter(attribute for attribute, _ in counts)
    objects = Counter(object_ for _, object_ in counts)
    chosen: set[Pair] = set()

    def choose_from(candidates: Sequence[Pair], most: int) -> None:
        for attribute, object_ in sorted(candidates, key=lambda pair: _rank(seed, "pair", *pair)):
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
    return {pair: splits[number % len(splits)] for number, pair in enumerate(dealt)}


def _split_sizes(products: int, fractions: SplitFractions) -> dict[str, int]:
    shares: dict[str, float] = {name: getattr(fractions, name) for name in SPLIT_NAMES}
    if products < len(shares):
        raise SplitError(
            f"the catalog has {products} product{'' if products == 1 else 's'}, too few for "
            f"{', '.join(shares)}: at least {len(shares)} are needed, since images of one product "
            "stay together. Add products; or, where it is several, give each a product_id."
        )
    sizes = {name: math.floor(products * share) for name, share in shares.items()}
    remainders = {name: products * share - sizes[name] for name, share in shares.items()}
    left = products - sum(sizes.values())
    for name in sorted(shares, key=lambda name: -remainders[name])[:left]:
        sizes[name] += 1
    for name in shares:
        if sizes[name] == 0:
            sizes[max(sizes, key=lambda other: sizes[other])] -= 1
            sizes[name] = 1
    return sizes


def _rank(seed: int, *names: str) -> bytes:
    return hashlib.blake2b("\0".join((str(seed), *names)).encode(), digest_size=16).digest()


def _given_pairs(images: pl.DataFrame, listed: pa.Table | None) -> pl.DataFrame:
    """The pairs of a split that the data set brings; ``images`` are those that have one."""
    unknown = images.filter(~pl.col("pair_split").is_in(SPLIT_NAMES))
    if unknown.height:
        image_id, name = unknown.select("image_id", "pair_split").row(0)
        raise SplitError(
            f"image {image_id!r}: pair_split is {name!r}, expected {', '.join(SPLIT_NAMES)}."
        )
    if listed is not None and listed.num_rows:
        return _listed_pairs(images, pl.DataFrame(listed))
    pairs = images.group_by(_PAIR).agg(
        pl.col("pair_split").min().alias("split"),
        (pl.col("pair_split") == "train").any().alias("seen"),
        pl.len().cast(pl.Int64).alias("images"),
        pl.col("pair_split").n_unique().alias("splits"),
    )
    both = pairs.filter(~pl.col("seen") & (pl.col("splits") > 1)).sort(_PAIR)
    if both.height:
        attribute, object_ = both.select(_PAIR).row(0)
        raise SplitError(
            f"the pair {attribute}, {object_} is unseen in training and has images in both val "
            "and test; the data set's pair_split must keep an unseen pair in one of them."
        )
    return pairs.with_columns(
        pl.when("seen").then(pl.lit("train")).otherwise("split").alias("split")
    ).drop("splits")


def _listed_pairs(images: pl.DataFrame, listed: pl.DataFrame) -> pl.DataFrame:
    """The pairs as the data set lists them, with the number of images that they have."""
    unlisted = images.join(listed, on=_PAIR, how="left", maintain_order="left").filter(
        pl.col("split").is_null()
        | ((pl.col("split") != "train") & (pl.col("split") != pl.col("pair_split")))
    )
    if unlisted.height:
        image_id, attribute, object_, split = unlisted.select("image_id", *_PAIR, "pair_split").row(
            0
        )
        raise SplitError(
            f"image {image_id!r} of {split}: the data set does not list the pair {attribute}, "
            f"{object_} for that split; run download again."
        )
    counts = images.group_by(_PAIR).agg(pl.len().cast(pl.Int64).alias("images"))
    return (
        listed.join(counts, on=_PAIR, how="left", maintain_order="left")
        .with_columns((pl.col("split") == "train").alias("seen"), pl.col("images").fill_null(0))
        .select(*_PAIR, "split", "seen", "images")
    )


def _made_pairs(
    images: pl.DataFrame, labelled: pl.DataFrame, params: Split, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The images with a pair split, the pairs, and how many images had to move to training."""
    pairs = labelled.group_by(_PAIR).agg(
        pl.len().cast(pl.Int64).alias("images"),
        (pl.col("caption_split") == "train").any().alias("trained"),
    )
    counts = {(row[0], row[1]): row[2] for row in pairs.select(*_PAIR, "images").iter_rows()}
    unseen = choose_unseen(counts, params.unseen_pairs, ("test", "val"), seed)
    pairs = pairs.join(
        pl.DataFrame(
            [(*pair, split) for pair, split in unseen.items()],
            schema={"attribute": pl.String, "object": pl.String, "split": pl.String},
            orient="row",
        ),
        on=_PAIR,
        how="left",
        maintain_order="left",
    ).with_columns(pl.col("split").is_null().alias("seen"), pl.col("split").fill_null("train"))
    images = (
        images.drop("pair_split")
        .join(
            pairs.select(*_PAIR, "split", "seen", "trained"),
            on=_PAIR,
            how="left",
            maintain_order="left",
        )
        .with_columns(
            pl.when(pl.col("seen") & pl.col("trained"))
            .then("caption_split")
            .otherwise("split")
            .alias("pair_split")
        )
    )
    moved = images.filter(pl.col("seen") & ~pl.col("trained")).height
    return images.drop("split", "seen", "trained"), pairs.drop("trained"), moved


def _added_pairs(pairs: pl.DataFrame, params: Split) -> pl.DataFrame:
    """The pairs of the closed world beyond the labels, as rows of PAIRS."""
    words = {
        "attributes": {dotted(word) for word in params.attributes},
        "objects": {dotted(word) for word in params.objects},
    }
    known = set(pairs.select(_PAIR).iter_rows())
    attributes = words["attributes"] | {attribute for attribute, _ in known}
    objects = words["objects"] | {object_ for _, object_ in known}
    if not attributes or not objects:
        raise SplitError(
            "no image has a label, so what may be predicted must be given: set both "
            f"split.attributes (found {params.attributes}) and split.objects "
            f"(found {params.objects}), or give the data set labels."
        )
    added = sorted(
        (attribute, object_)
        for attribute in attributes
        for object_ in objects
        if (attribute in words["attributes"] or object_ in words["objects"])
        and (attribute, object_) not in known
    )
    return pl.DataFrame(
        [(attribute, object_, "test", False, 0) for attribute, object_ in added],
        schema=pairs.select(PAIRS.names).schema,
        orient="row",
    ).select(pairs.columns)


def _metrics(images: pl.DataFrame, pairs: pl.DataFrame, moved: int) -> dict[str, Any]:
    products = images.unique("product_id")
    unseen = pairs.filter(~pl.col("seen"))
    return {
        "images": _by_split(images["caption_split"]),
        "products": _by_split(products["caption_split"]),
        "pairs": {
            "seen": pairs.height - unseen.height,
            "unseen_val": unseen.filter(pl.col("split") == "val").height,
            "unseen_test": unseen.filter(pl.col("split") == "test").height,
        },
        "pair_images": _by_split(images["pair_split"])
        | {"none": images["pair_split"].null_count(), "moved_to_train": moved},
    }


def _by_split(column: pl.Series) -> dict[str, int]:
    return {name: int((column == name).sum()) for name in SPLIT_NAMES}
