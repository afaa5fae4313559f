"""The splits that a data set brings, for captions and pairs, and what is made where one lacks."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from compositional_prompts.catalog.splitting.assignment import Splits, make_splits
from compositional_prompts.catalog.splitting.parameters import Split, SplitFractions
from compositional_prompts.catalog.splitting.product_splits import SplitError
from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLITS
from compositional_prompts.files.tables import check_schema

Row = tuple[str, str | None, str | None, str | None]


def split(rows: list[Row], seed: int = 7, **changes: Any) -> Splits:
    """The splits of rows of product_id, attribute, object and pair_split."""
    values: dict[str, Any] = {
        "assignment": "given",
        "fractions": SplitFractions(train=0.8, val=0.1, test=0.1),
        "unseen_pairs": 0.2,
        "attributes": [],
        "objects": [],
        "corpus": False,
    }
    columns = ("product_id", "attribute", "object", "pair_split")
    labels = pa.table(
        {"image_id": [f"i{n}" for n in range(len(rows))]}
        | {
            name: pa.array([row[place] for row in rows], pa.string())
            for place, name in enumerate(columns)
        }
    )
    splits = make_splits(labels, Split(**(values | changes)), seed, assignment="given")
    check_schema(splits.images.schema, SPLITS, "images")
    check_schema(splits.pairs.schema, PAIRS, "pairs")
    return splits


def test_captions_and_pairs_follow_the_split_that_is_given() -> None:
    rows: list[Row] = [
        ("p0", "A", "u", "train"),
        ("p1", "A", "v", "train"),
        ("p2", "B", "u", "train"),
        ("p3", None, None, "train"),
        ("p4", "A", "u", "val"),
        ("p5", "B", "v", "test"),
        ("p6", None, None, "test"),
    ]
    found = split(rows)
    images = found.images.to_pydict()
    assert images["caption_split"] == [row[3] for row in rows]
    assert images["pair_split"] == ["train"] * 3 + [None, "val", "test", None]
    assert images["pair_seen"] == [True] * 3 + [None, True, False, None]
    assert found.pairs.to_pydict()["split"] == ["train", "train", "train", "test"]
    assert found.metrics["images"] == {"train": 4, "val": 1, "test": 2}
    assert found.metrics["products"] == {"train": 4, "val": 1, "test": 2}
    assert found.metrics["assignment"] == "given"
    assert found.metrics["products_across_splits"] == found.metrics["left_out"] == 0


def test_a_data_set_without_val_borrows_products_of_train() -> None:
    # Two images a product, so that products are seen to stay together.
    rows: list[Row] = [(f"p{n // 2}", "A", "u", "train") for n in range(180)]
    rows += [(f"t{n}", "A", "u", "test") for n in range(40)]
    found = split(rows)
    images = found.images.to_pydict()
    # Of 90 products the share of val in train and val, 0.1 of 0.9.
    assert found.metrics["products"] == {"train": 80, "val": 10, "test": 40}
    assert images["caption_split"][180:] == ["test"] * 40
    assert images["caption_split"][0:180:2] == images["caption_split"][1:180:2]
    assert images["pair_split"] == images["caption_split"]
    assert split(rows).images == found.images
    assert split(rows, seed=8).images != found.images


def test_what_is_borrowed_leaves_no_pair_without_training() -> None:
    rows: list[Row] = [(f"p{n}", "A", f"o{n}", "train") for n in range(20)]
    rows.append(("t", "A", "o0", "test"))
    found = split(rows)
    images = found.images.to_pydict()
    assert images["caption_split"].count("val") == 2
    assert images["pair_split"] == ["train"] * 20 + ["test"]
    assert found.metrics["pair_images"]["moved_to_train"] == 2
    assert found.metrics["pairs"] == {"seen": 20, "unseen_val": 0, "unseen_test": 0}


def test_an_unseen_pair_of_val_and_test_is_of_test() -> None:
    rows: list[Row] = [
        ("p0", "A", "u", "train"),
        ("p1", "B", "v", "val"),
        ("p2", "B", "v", "test"),
        ("p3", "C", "w", "val"),
    ]
    found = split(rows)
    images = found.images.to_pydict()
    assert images["caption_split"] == ["train", "val", "test", "val"]
    assert images["pair_split"] == ["train", None, "test", "val"]
    assert found.pairs.to_pydict()["split"] == ["train", "test", "val"]
    assert found.metrics["left_out"] == 1


def test_products_of_several_splits_are_said(caplog: pytest.LogCaptureFixture) -> None:
    found = split(
        [("p", "A", "u", "train"), ("p", "A", "u", "test"), ("q", "A", "u", "val")],
    )
    assert found.metrics["products_across_splits"] == 1
    assert found.metrics["products"] == {"train": 1, "val": 1, "test": 1}
    assert "1 products have photos in several of the data set's splits" in caplog.text


def test_without_labels_only_captions_are_split() -> None:
    rows: list[Row] = [
        (f"p{n}", None, None, name) for n, name in enumerate(("train", "val", "test"))
    ]
    found = split(rows, attributes=["Red"], objects=["Shoe"])
    assert found.images.to_pydict()["caption_split"] == ["train", "val", "test"]
    assert found.images["pair_split"].null_count == 3
    assert found.pairs.to_pylist() == [
        {"attribute": "Red", "object": "Shoe", "split": "test", "seen": False, "images": 0}
    ]


def test_objects_alone_follow_the_split_that_is_given() -> None:
    rows: list[Row] = [(f"p{n}", None, "uv"[n % 2], "train") for n in range(18)]
    rows += [(f"t{n}", None, "uv"[n % 2], "test") for n in range(4)]
    found = split(rows)
    images = found.images.to_pydict()
    assert found.metrics["products"] == {"train": 16, "val": 2, "test": 4}
    assert images["pair_split"] == images["caption_split"]
    assert found.pairs.to_pydict()["attribute"] == [None, None]
    assert found.pairs.to_pydict()["seen"] == [True, True]


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        (["train", None], "image 'i1' has no split, expected train, val, test"),
        (["train", "dev"], "image 'i1' has the split 'dev', expected train, val, test"),
        (["val", "test"], "the data set has no image of train"),
        (["train", "test"], "has no val, and 1 products of train, too few to take some: 2 are"),
    ],
)
def test_what_is_no_split_is_told(splits: list[str | None], told: str) -> None:
    with pytest.raises(SplitError, match=told):
        split([(f"p{n}", "A", "u", name) for n, name in enumerate(splits)])
