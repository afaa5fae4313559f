"""Who is trained on, validated on and tested on: of products for captions, of pairs for naming.

Two splits stand beside each other. The caption split divides products, so that no product is seen
on both sides. The pair split is that of compositional zero-shot learning (Purushwalkam et al.,
"Task-driven modular networks for zero-shot compositional learning", ICCV 2019): some pairs of
attribute and object are unseen in training, though each word of them is seen in another pair.
"""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.splitting.parameters import Assignment, Split
from compositional_prompts.catalog.splitting.product_splits import (
    SplitError,
    seeded_digest,
    split_products,
)
from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLIT_NAMES, SPLITS
from compositional_prompts.catalog.splitting.unseen_pairs import choose_unseen
from compositional_prompts.prompt.pair import dotted

log = logging.getLogger(__name__)

LABEL_COLUMNS: Final = ("image_id", "product_id", "attribute", "object", "pair_split")
"""The columns of the catalog that :func:`make_splits` needs."""

_PAIR: Final = ["attribute", "object"]


class Splits(NamedTuple):
    """The split of every image, and the closed world of pairs.

    Attributes:
        images: SPLITS, a row an image, in the order of the catalog.
        pairs: PAIRS, sorted by attribute, then object.
        metrics: how many images, products and pairs are where, by which assignment, and by how much
            the shares found are above those wanted.
    """

    images: pa.Table
    pairs: pa.Table
    metrics: dict[str, Any]


def make_splits(
    labels: pa.Table,
    params: Split,
    seed: int,
    listed: pa.Table | None = None,
    *,
    assignment: Assignment = "exact",
) -> Splits:
    """Split the images of a catalog.

    Products are split by :func:`split_products`. Where the data set brings a pair split (any
    labelled image has a ``pair_split``), it is used as it is, and labelled images without one
    take no part in it. Otherwise :func:`choose_unseen` picks the unseen pairs; their images go
    where the pair goes, and those of a seen pair follow their product. A seen pair without an
    image among the training products would be unseen: its images train in the pair split, all of
    them (``exact``) or those of one product (``stable``), and are counted.

    The closed world is every pair of the pair split, with those that the data set lists though
    they have no image left, and every combination that has at least one of the words in
    ``params.attributes`` and ``params.objects``.

    Args:
        labels: the columns :data:`LABEL_COLUMNS` of the catalog.
        params: fractions of products, share of unseen pairs, and words beyond the labels.
        seed: the same seed and images give the same splits.
        listed: LISTED_PAIRS; the pairs that the data set lists, none for most data sets.
        assignment: of products and of unseen pairs.

    Raises:
        SplitError: there are too few products or no labels, or the split that the data set
            brings has an unknown name, an unseen pair in both val and test, or an image of a pair
            that it does not list for that image's split.
    """
    images = pl.DataFrame(labels.select(list(LABEL_COLUMNS)))
    products = images.select(pl.col("product_id").unique())
    splits = split_products(products["product_id"].to_list(), params.fractions, seed, assignment)
    products = products.with_columns(
        pl.Series("caption_split", np.array(SPLIT_NAMES)[splits].tolist(), pl.String)
    )
    images = images.join(products, on="product_id", how="left", maintain_order="left")
    labelled = images.filter(pl.col("attribute").is_not_null())
    made = not labelled["pair_split"].is_not_null().any()
    if not made:
        pairs, moved = _given_pairs(labelled.filter(pl.col("pair_split").is_not_null()), listed), 0
    else:
        images, pairs, moved = _made_pairs(images, labelled, params, seed, assignment)
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
    metrics = _metrics(images, pairs, moved) | {
        "added_pairs": added.height,
        "pairs_without_images": pairs.filter(pl.col("images") == 0).height,
        "assignment": assignment,
        "deviation": _deviation(splits, pairs, params, made=made),
    }
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
    images: pl.DataFrame,
    labelled: pl.DataFrame,
    params: Split,
    seed: int,
    assignment: Assignment,
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The images with a pair split, the pairs, and how many images had to move to training."""
    pairs = labelled.group_by(_PAIR).agg(
        pl.len().cast(pl.Int64).alias("images"),
        (pl.col("caption_split") == "train").any().alias("trained"),
    )
    counts = {(row[0], row[1]): row[2] for row in pairs.select(*_PAIR, "images").iter_rows()}
    unseen = choose_unseen(counts, params.unseen_pairs, seed, assignment)
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
    images = images.drop("pair_split").join(
        pairs.select(*_PAIR, "split", "seen", "trained"),
        on=_PAIR,
        how="left",
        maintain_order="left",
    )
    untrained = images.filter(pl.col("seen") & ~pl.col("trained"))
    moving = untrained.select(*_PAIR, "product_id").unique()
    if assignment == "stable":
        # One product will do, so that few come back once the pair has a product in training.
        ranked = sorted(moving.iter_rows(), key=lambda row: seeded_digest(seed, "product", row[2]))
        first = {(row[0], row[1]): row for row in reversed(ranked)}
        moving = pl.DataFrame(list(first.values()), moving.schema, orient="row")
    images = images.join(
        moving.with_columns(pl.lit(True).alias("moved")),
        on=[*_PAIR, "product_id"],
        how="left",
        maintain_order="left",
    ).with_columns(
        pl.when(pl.col("seen") & pl.col("moved").is_null())
        .then("caption_split")
        .otherwise("split")
        .alias("pair_split")
    )
    moved = len(images) - images["moved"].null_count()
    return images.drop("split", "seen", "trained", "moved"), pairs.drop("trained"), moved


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


def _deviation(
    splits: NDArray[np.int8], pairs: pl.DataFrame, params: Split, *, made: bool
) -> dict[str, float]:
    """By how much the shares of products, and of unseen pairs, are above those asked for."""
    found = {
        name: float((splits == split).mean()) - getattr(params.fractions, name)
        for split, name in enumerate(SPLIT_NAMES)
    }
    if made and pairs.height:
        found["unseen_pairs"] = (
            pairs.filter(~pl.col("seen")).height / pairs.height - params.unseen_pairs
        )
    return found


def _by_split(column: pl.Series) -> dict[str, int]:
    return {name: int((column == name).sum()) for name in SPLIT_NAMES}
