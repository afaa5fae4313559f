"""Who is trained on, validated on and tested on: of products for captions, of pairs for naming.

Two splits stand beside each other. The caption split divides products, so that no product is seen
on both sides. The pair split is that of compositional zero-shot learning (Purushwalkam et al.,
"Task-driven modular networks for zero-shot compositional learning", ICCV 2019): some pairs of
attribute and object are unseen in training, though each word of them is seen in another pair.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compositional_prompts.catalog.splitting.given_splits import given_splits
from compositional_prompts.catalog.splitting.parameters import Assignment, MadeAssignment, Split
from compositional_prompts.catalog.splitting.product_splits import (
    SplitError,
    seeded_digest,
    split_products,
)
from compositional_prompts.catalog.splitting.split_tables import (
    PAIRS,
    PAIRS_OF_OBJECTS,
    SPLIT_NAMES,
    SPLITS,
    pairs_schema,
)
from compositional_prompts.catalog.splitting.unseen_pairs import choose_unseen
from compositional_prompts.files.tables import write_table, write_tables
from compositional_prompts.prompt.pair import NO_ATTRIBUTE, Pair, dotted
from compositional_prompts.prompt.text_form import label_form

log = logging.getLogger(__name__)

LABEL_COLUMNS: Final = ("image_id", "product_id", "attribute", "object", "pair_split")
"""The columns of the catalog that :func:`make_splits` needs."""
REPEATED_COLUMNS: Final = ("attribute", "object", "pair_split")
"""Those of them that may be dictionaries, as they are of few values."""

_PAIR: Final = ["attribute", "object"]
_PAIRS_SCHEMA: Final = {
    "attribute": pl.String,
    "object": pl.String,
    "images": pl.Int64,
    "split": pl.String,
    "seen": pl.Boolean,
}
_TRAIN: Final = SPLIT_NAMES.index("train")


PART_ROWS: Final = 65_536


class Splits(NamedTuple):
    """The split of every image, and the closed world of pairs.

    Attributes:
        images: a row an image, in the order of the catalog, with the columns of SPLITS; those of
            few values as dictionaries.
        pairs: PAIRS, sorted by attribute, then object; PAIRS_OF_OBJECTS of objects alone.
        metrics: how many images, products and pairs are where, by which assignment, and by how much
            the shares found are above those wanted.
    """

    images: pa.Table
    pairs: pa.Table
    metrics: dict[str, Any]

    def write(self, images: Path, pairs: Path) -> None:
        """Write both tables, ``splits.parquet`` and ``pairs.parquet``; images some at a time."""
        batches = self.images.to_batches(max_chunksize=PART_ROWS)
        write_tables((pa.Table.from_batches([batch]) for batch in batches), images, SPLITS)
        write_table(self.pairs, pairs, pairs_schema(self.pairs))


def make_splits(
    labels: pa.Table,
    params: Split,
    seed: int,
    listed: pa.Table | None = None,
    *,
    assignment: Assignment = "exact",
) -> Splits:
    """Split the images of a catalog.

    With the assignment ``given``, :func:`given_splits` says both splits. Otherwise products are
    split by :func:`split_products`. Where the data set brings a pair split (any
    labelled image has a ``pair_split``), it is used as it is, and labelled images without one
    take no part in it. Otherwise :func:`choose_unseen` picks the unseen pairs; their images go
    where the pair goes, and those of a seen pair follow their product. A seen pair without an
    image among the training products would be unseen: its images train in the pair split, all of
    them (``exact``) or those of one product (``stable``), and are counted.

    The closed world is every pair of the pair split, with those that the data set lists though
    they have no image left, and every combination that has at least one of the words in
    ``params.attributes`` and ``params.objects``.

    Where labels are objects alone (no image has an attribute), the closed world is that of the
    objects: each is a pair without an attribute, whose only word is its own, so that none can be
    unseen by choice, and images follow their products.

    Args:
        labels: the columns :data:`LABEL_COLUMNS` of the catalog; the :data:`REPEATED_COLUMNS` as
            strings or as dictionaries of them.
        params: fractions of products, share of unseen pairs, and words beyond the labels.
        seed: the same seed and images give the same splits.
        listed: LISTED_PAIRS; the pairs that the data set lists, none for most data sets.
        assignment: of products and of unseen pairs.

    Raises:
        SplitError: there are too few products or no labels, or the split that the data set
            brings has an unknown name, an unseen pair in both val and test, or an image of a pair
            that it does not list for that image's split.
    """
    named = _without_attributes(labels) if _objects_alone(labels, params) else labels
    alone = named is not labels
    coded = _Coded.of(named)
    labelled = coded.pair >= 0
    counted: dict[str, int] = {}
    made = False
    if assignment == "given":
        taken = given_splits(labels, coded.product, coded.pair, params.fractions, seed)
        caption_splits, moved = taken.captions, taken.moved
        splits = np.unique(np.stack([coded.product, caption_splits]), axis=1)[1]
        pair_splits = np.where(labelled, taken.pairs, np.int8(-1))
        pairs = _given_pairs(_with_splits(named, pair_splits), listed)
        counted = {"products_across_splits": taken.across, "left_out": taken.left_out}
    else:
        splits = split_products(coded.products, params.fractions, seed, assignment)
        caption_splits = splits[coded.product]
        given = _positions(labels["pair_split"], pa.array(SPLIT_NAMES))
        brought = pc.is_valid(labels["pair_split"]).to_numpy() & labelled
        made = not brought.any()
        if made:
            pairs, pair_splits, moved = _made_pairs(coded, caption_splits, params, seed, assignment)
        else:
            pairs, moved = _given_pairs(_frame(named, brought), listed), 0
            pair_splits = np.where(labelled, given, -1).astype(np.int8)
    seen = {(row[0], row[1]): row[2] for row in pairs.select(*_PAIR, "seen").iter_rows()}
    # A pair of images that the given split leaves out is in no split, so that its place is unused.
    pair_seen = np.array([seen.get(pair, False) for pair in coded.pairs] + [False])[coded.pair]
    added = _added_pairs(pairs, params, alone=alone)
    metrics = _counts(caption_splits, splits, pair_splits, pairs, moved) | {
        "added_pairs": added.height,
        "pairs_without_images": pairs.filter(pl.col("images") == 0).height,
        "assignment": assignment,
        "deviation": {}
        if assignment == "given"
        else _deviation(splits, pairs, params, made=made and not alone),
        **counted,
    }
    world = pl.concat([pairs, added]).sort(_PAIR)
    log.info(
        "images: %s; pairs: %s",
        ", ".join(f"{count} {name}" for name, count in metrics["images"].items()),
        ", ".join(f"{count} {name}" for name, count in metrics["pairs"].items()),
    )
    columns = {
        "caption_split": _named(caption_splits),
        "pair_split": _named(pair_splits),
        "pair_seen": pa.array(pair_seen, pa.bool_(), mask=pair_splits < 0),
    }
    images = [columns[name] if name in columns else labels[name] for name in SPLITS.names]
    return Splits(
        pa.table(images, names=SPLITS.names),
        _as_table(world, alone=alone),
        metrics,
    )


def _objects_alone(labels: pa.Table, params: Split) -> bool:
    """Whether what may be predicted are objects alone: no label, and no parameter, says else."""
    if labels["attribute"].null_count < len(labels):
        return False
    labelled = labels["object"].null_count < len(labels)
    if labelled and params.attributes:
        raise SplitError(
            f"split.attributes names {', '.join(params.attributes)}, but the labels of the data "
            "set are objects alone, without attributes: leave it empty."
        )
    return labelled or bool(params.objects and not params.attributes)


def _without_attributes(labels: pa.Table) -> pa.Table:
    """Labels that are objects alone as pairs in memory."""
    known = pc.is_valid(labels["object"])
    attribute = pc.if_else(known, pa.scalar(NO_ATTRIBUTE), pa.scalar(None, pa.string()))
    return labels.set_column(labels.schema.get_field_index("attribute"), "attribute", attribute)


def _as_table(world: pl.DataFrame, *, alone: bool) -> pa.Table:
    if not alone:
        return world.select(PAIRS.names).to_arrow().cast(PAIRS)
    nulled = world.with_columns(pl.lit(None, pl.String).alias("attribute"))
    return nulled.select(PAIRS.names).to_arrow().cast(PAIRS_OF_OBJECTS)


class _Coded(NamedTuple):
    """Products and pairs of the images by number: four bytes an image each.

    Attributes:
        products: the distinct product_ids.
        product: of every image, its place among them; int32 ``[n]``.
        pairs: the distinct pairs of labels, sorted.
        pair: of every image, its place among them, -1 without a label; int32 ``[n]``.
    """

    products: pa.StringArray
    product: NDArray[np.int32]
    pairs: list[Pair]
    pair: NDArray[np.int32]

    @classmethod
    def of(cls, labels: pa.Table) -> _Coded:
        products, product = _numbered(labels["product_id"])
        words = [pc.unique(labels[name].cast(pa.string()).drop_null()) for name in _PAIR]
        attribute, object_ = (
            _positions(labels[name], known) for name, known in zip(_PAIR, words, strict=True)
        )
        number = attribute.astype(np.int64)
        number *= len(words[1])
        number += object_
        # Null without a label, which takes no place among the distinct ones.
        numbers = pa.array(number, mask=(attribute < 0) | (object_ < 0))
        found = pc.unique(numbers.drop_null())
        place = pc.fill_null(pc.index_in(numbers, value_set=found), -1).to_numpy()
        attributes, objects = (known.to_pylist() for known in words)
        pairs = [
            (attributes[one // len(objects)], objects[one % len(objects)])
            for one in found.to_pylist()
        ]
        # From the order of first occurrence to that of the words; the last place has no label.
        order = sorted(range(len(pairs)), key=pairs.__getitem__)
        rank = np.full(len(pairs) + 1, -1, np.int32)
        rank[order] = np.arange(len(pairs), dtype=np.int32)
        return cls(products, product, [pairs[n] for n in order], rank[place])


def _numbered(column: pa.ChunkedArray) -> tuple[pa.StringArray, NDArray[np.int32]]:
    """The distinct values of a column without nulls, and the place of every value among them."""
    encoded = column.cast(pa.string()).dictionary_encode()
    if not encoded.num_chunks:
        return pa.array([], pa.string()), np.empty(0, np.int32)
    # Each chunk has the values of those before it too, in one order: the last one has all.
    known = encoded.chunk(encoded.num_chunks - 1).dictionary
    return known, np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])


def _positions(column: pa.ChunkedArray, known: pa.StringArray) -> NDArray[np.int32]:
    """The place of every value in ``known``; -1 where it is null or not there."""
    found = pc.index_in(column.cast(pa.string()), value_set=known)
    return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int32)


def _named(splits: NDArray[np.int8]) -> pa.Array:
    """Names of splits, as a dictionary; null where there is none."""
    numbers = pa.array(splits, mask=splits < 0)
    return pa.DictionaryArray.from_arrays(numbers, pa.array(SPLIT_NAMES))


def _with_splits(labels: pa.Table, splits: NDArray[np.int8]) -> pl.DataFrame:
    """The labels of the images that have a split, with it as ``pair_split``."""
    place = labels.column_names.index("pair_split")
    placed = labels.set_column(place, "pair_split", _named(splits))
    return _frame(placed, splits >= 0)


def _frame(labels: pa.Table, chosen: NDArray[np.bool_]) -> pl.DataFrame:
    """Some of the images, without dictionaries."""
    some = labels.select(list(LABEL_COLUMNS)).filter(pa.array(chosen))
    return pl.DataFrame(some.cast(pa.schema([(name, pa.string()) for name in LABEL_COLUMNS])))


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
            "and test; the data set's pair_split must keep an unseen pair in one of them. "
            "split.assignment: given leaves those of val out."
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
    coded: _Coded,
    caption_splits: NDArray[np.int8],
    params: Split,
    seed: int,
    assignment: MadeAssignment,
) -> tuple[pl.DataFrame, NDArray[np.int8], int]:
    """The pairs, the pair split of every image, and how many images had to move to training."""
    count = len(coded.pairs)
    labelled = coded.pair >= 0
    images = np.bincount(coded.pair[labelled], minlength=count)
    trained = np.zeros(count, np.bool_)
    trained[coded.pair[labelled & (caption_splits == _TRAIN)]] = True
    counts = dict(zip(coded.pairs, images.tolist(), strict=True))
    unseen = choose_unseen(counts, params.unseen_pairs, seed, assignment)
    names = [unseen.get(pair, "train") for pair in coded.pairs]
    seen = np.array([pair not in unseen for pair in coded.pairs], np.bool_)
    # The last place is that of images without a label.
    of_pair = np.array([*map(SPLIT_NAMES.index, names), -1], np.int8)[coded.pair]
    follows = np.append(seen, False)[coded.pair]
    moving = np.flatnonzero(np.append(seen & ~trained, False)[coded.pair])
    if assignment == "stable":
        # One product will do, so that few come back once the pair has a product in training.
        moving = moving[_of_first_product(coded, moving, seed)]
    follows[moving] = False
    pairs = pl.DataFrame(
        {
            "attribute": [pair[0] for pair in coded.pairs],
            "object": [pair[1] for pair in coded.pairs],
            "images": images.tolist(),
            "split": names,
            "seen": seen.tolist(),
        },
        schema=_PAIRS_SCHEMA,
    )
    return pairs, np.where(follows, caption_splits, of_pair), len(moving)


def _of_first_product(coded: _Coded, rows: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which of some images show, of all products of their pair, that of the lowest hash."""
    products = np.unique(coded.product[rows])
    ranks = np.argsort(
        np.argsort(
            [seeded_digest(seed, "product", coded.products[n].as_py()).hex() for n in products]
        )
    )
    rank = ranks[np.searchsorted(products, coded.product[rows])]
    lowest = np.full(len(coded.pairs), len(products))
    np.minimum.at(lowest, coded.pair[rows], rank)
    return np.asarray(lowest[coded.pair[rows]] == rank)


def _added_pairs(pairs: pl.DataFrame, params: Split, *, alone: bool) -> pl.DataFrame:
    """The pairs of the closed world beyond the labels, as rows of PAIRS."""
    known = set(pairs.select(_PAIR).iter_rows())
    words = {
        "attributes": _spelled_as(params.attributes, (attribute for attribute, _ in known)),
        "objects": _spelled_as(params.objects, (object_ for _, object_ in known)),
    }
    attributes = words["attributes"] | {attribute for attribute, _ in known}
    if alone:
        attributes = {NO_ATTRIBUTE}
    objects = words["objects"] | {object_ for _, object_ in known}
    if not attributes or not objects:
        raise SplitError(
            "no image has a label, so what may be predicted must be given: set split.objects "
            f"(found {params.objects}), and split.attributes too where prompts are to name both "
            f"(found {params.attributes}), or give the data set labels."
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


def _spelled_as(words: Iterable[str], labels: Iterable[str]) -> set[str]:
    """Words as prompts write them; those that labels have too, in the spelling of the labels."""
    spelled = {label_form(label): label for label in labels}
    found = set()
    for word in map(dotted, words):
        label = spelled.get(label_form(word), word)
        if label != word:
            log.info("%s is a label already, and is written %s as there", word, label)
        found.add(label)
    return found


def _counts(
    caption_splits: NDArray[np.int8],
    products: NDArray[np.int8],
    pair_splits: NDArray[np.int8],
    pairs: pl.DataFrame,
    moved: int,
) -> dict[str, Any]:
    unseen = pairs.filter(~pl.col("seen"))
    return {
        "images": _by_split(caption_splits),
        "products": _by_split(products),
        "pairs": {
            "seen": pairs.height - unseen.height,
            "unseen_val": unseen.filter(pl.col("split") == "val").height,
            "unseen_test": unseen.filter(pl.col("split") == "test").height,
        },
        "pair_images": _by_split(pair_splits)
        | {"none": int((pair_splits < 0).sum()), "moved_to_train": moved},
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


def _by_split(splits: NDArray[np.int8]) -> dict[str, int]:
    return {name: int((splits == split).sum()) for split, name in enumerate(SPLIT_NAMES)}
