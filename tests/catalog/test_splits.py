"""Products never on two sides, and pairs unseen in training made of words that are seen."""

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.assignment import make_splits
from compositional_prompts.catalog.splitting.equal_photos import contents_across_splits
from compositional_prompts.catalog.splitting.parameters import Assignment, Split, SplitFractions
from compositional_prompts.catalog.splitting.product_splits import SplitError, split_products
from compositional_prompts.catalog.splitting.split_tables import (
    LISTED_PAIRS,
    PAIRS,
    PAIRS_OF_OBJECTS,
    SPLIT_NAMES,
    SPLITS,
    pairs_schema,
)
from compositional_prompts.catalog.splitting.unseen_pairs import choose_unseen
from compositional_prompts.files.tables import check_no_nulls, check_schema


def fractions(train: float = 0.8, val: float = 0.1, test: float = 0.1) -> SplitFractions:
    return SplitFractions(train=train, val=val, test=test)


def parameters(**changes: Any) -> Split:
    values: dict[str, Any] = {
        "assignment": None,
        "fractions": fractions(),
        "unseen_pairs": 0.2,
        "attributes": [],
        "objects": [],
        "corpus": False,
    }
    return Split(**(values | changes))


def sides(
    names: Sequence[str], shares: SplitFractions, seed: int, assignment: Assignment = "exact"
) -> dict[str, str]:
    splits = split_products(pa.array(names, pa.string()), shares, seed, assignment)
    return dict(zip(names, (SPLIT_NAMES[split] for split in splits), strict=True))


def labels(rows: list[tuple[str, str | None, str | None]], split: list | None = None) -> pa.Table:
    """Rows of product_id, attribute, object."""
    return pa.table(
        {
            "image_id": [f"i{n}" for n in range(len(rows))],
            "product_id": [row[0] for row in rows],
            "attribute": pa.array([row[1] for row in rows], pa.string()),
            "object": pa.array([row[2] for row in rows], pa.string()),
            "pair_split": pa.array(split or [None] * len(rows), pa.string()),
        }
    )


@st.composite
def catalogs(draw: st.DrawFn) -> pa.Table:
    """Labels of at least three products of one or more images, some of them unlabelled."""
    pair = st.tuples(st.sampled_from("ABCDE"), st.sampled_from("uvwxyz"))
    label = st.one_of(pair, pair, pair, st.just((None, None)))
    products = draw(st.lists(st.lists(label, min_size=1, max_size=4), min_size=3, max_size=40))
    rows = [(f"p{n}", *words) for n, product in enumerate(products) for words in product]
    draw(st.randoms(use_true_random=False)).shuffle(rows)
    rows.append(("p0", "A", "u"))
    return labels(rows)


@given(
    catalogs(),
    st.integers(0, 9),
    st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    st.sampled_from(["stable", "exact"]),
)
def test_every_split_keeps_its_promises(
    catalog: pa.Table, seed: int, share: float, assignment: Assignment
) -> None:
    splits = make_splits(catalog, parameters(unseen_pairs=share), seed, assignment=assignment)
    check_schema(splits.images.schema, SPLITS, "images")
    check_schema(splits.pairs.schema, PAIRS, "pairs")
    check_no_nulls(splits.images, SPLITS, "images")
    check_no_nulls(splits.pairs, PAIRS, "pairs")
    images = splits.images.to_pylist()
    assert [row["image_id"] for row in images] == catalog["image_id"].to_pylist()

    sides_of = defaultdict(set)
    for row in images:
        sides_of[row["product_id"]].add(row["caption_split"])
    assert all(len(names) == 1 for names in sides_of.values())
    assert {name for names in sides_of.values() for name in names} == {"train", "val", "test"}

    pairs = {(row["attribute"], row["object"]): row for row in splits.pairs.to_pylist()}
    assert list(pairs) == sorted(pairs)
    seen = {pair for pair, row in pairs.items() if row["seen"]}
    counts: Counter[tuple[str, str]] = Counter()
    trained = set()
    for row in images:
        pair = (row["attribute"], row["object"])
        if pair == (None, None):
            assert (row["pair_split"], row["pair_seen"]) == (None, None)
            continue
        counts[pair] += 1
        assert row["pair_seen"] == (pair in seen)
        if pair not in seen:
            assert row["pair_split"] == pairs[pair]["split"] != "train"
        elif row["pair_split"] == "train":
            trained.add(pair)
        else:
            assert row["pair_split"] == row["caption_split"]
    assert {pair: row["images"] for pair, row in pairs.items()} == counts
    assert trained == seen
    assert all(pairs[pair]["split"] == "train" for pair in seen)
    for attribute, object_ in set(pairs) - seen:
        assert any(attribute == other for other, _ in seen)
        assert any(object_ == other for _, other in seen)

    metrics = splits.metrics
    assert metrics["pairs"]["seen"] == len(seen)
    assert sum(metrics["pairs"].values()) == len(pairs)
    assert sum(metrics["images"].values()) == len(images)
    assert sum(metrics["products"].values()) == len(sides_of)
    assert metrics["pair_images"]["none"] == len(images) - sum(counts.values())
    assert sum(metrics["pair_images"][name] for name in ("train", "val", "test")) == sum(
        counts.values()
    )
    assert metrics["assignment"] == assignment
    for name, wanted in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        found = metrics["products"][name] / len(sides_of)
        assert metrics["deviation"][name] == pytest.approx(found - wanted)
    unseen_share = (len(pairs) - len(seen)) / len(pairs)
    assert metrics["deviation"]["unseen_pairs"] == pytest.approx(unseen_share - share)
    again = make_splits(catalog, parameters(unseen_pairs=share), seed, assignment=assignment)
    assert splits == again


@given(
    st.integers(3, 400),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.7, 0.29, 0.01)]),
    st.integers(0, 5),
)
def test_fractions_are_met_as_closely_as_whole_products_allow(
    count: int, shares: tuple[float, float, float], seed: int
) -> None:
    names = [f"p{n}" for n in range(count)]
    found = Counter(sides(names, fractions(*shares), seed).values())
    for name, share in zip(("train", "val", "test"), shares, strict=True):
        # At least one product may cost another split up to two.
        slack = 1 if count * min(s for s in shares if s) >= 1 else 3
        assert abs(found[name] - share * count) < slack
        assert found[name] > 0


def test_the_order_of_products_does_not_matter_and_seeds_differ() -> None:
    names = [f"p{n}" for n in range(200)]
    shuffled = random.Random(3).sample(names, 200)
    for assignment in ("exact", "stable"):
        one = sides(names, fractions(), 1, assignment)
        assert sides(shuffled, fractions(), 1, assignment) == one
        assert sides(names, fractions(), 2, assignment) != one


def test_added_products_move_few_others() -> None:
    names = [f"p{n}" for n in range(1000)]
    before = sides(names, fractions(), 7)
    after = sides([*names, *(f"q{n}" for n in range(20))], fractions(), 7)
    assert sum(before[name] != after[name] for name in names) <= 40


def test_too_few_products_are_told_with_the_number_needed() -> None:
    with pytest.raises(SplitError, match=r"1 product, too few for train, val, test: at least 3"):
        make_splits(labels([("p", "A", "u"), ("p", "B", "u")]), parameters(), 0)
    with pytest.raises(SplitError, match=r"2 products, too few .+ Add products;"):
        sides(["p", "q"], fractions(), 0, "stable")
    for assignment in ("exact", "stable"):
        found = sides(["a", "b", "c"], fractions(), 0, assignment)
        assert sorted(found.values()) == ["test", "train", "val"]


def test_one_pair_cannot_be_unseen_and_trains() -> None:
    splits = make_splits(labels([(f"p{n}", "A", "u") for n in range(5)]), parameters(), 0)
    assert splits.metrics["pairs"] == {"seen": 1, "unseen_val": 0, "unseen_test": 0}
    assert splits.pairs["split"].to_pylist() == ["train"]


def test_a_seen_pair_outside_the_training_products_moves_to_training() -> None:
    rows = [(f"p{n}", "A", "u") for n in range(20)]
    side = sides(sorted({row[0] for row in rows}), fractions(), 0)
    held_out = next(name for name, split in side.items() if split == "test")
    catalog = labels([(name, "B" if name == held_out else "A", "u") for name, *_ in rows])
    splits = make_splits(catalog, parameters(unseen_pairs=0.0), 0)
    (row,) = [row for row in splits.images.to_pylist() if row["attribute"] == "B"]
    assert (row["caption_split"], row["pair_split"], row["pair_seen"]) == ("test", "train", True)
    assert splits.metrics["pair_images"]["moved_to_train"] == 1


def test_unseen_pairs_are_as_many_as_asked_spread_and_dealt_in_turn() -> None:
    counts = {
        (a, o): 1000 - 100 * i - 10 * j
        for i, a in enumerate("ABCDE")
        for j, o in enumerate("uvwxy")
    }
    unseen = choose_unseen(counts, 0.2, 3, "exact")
    by_frequency = sorted(counts, key=lambda pair: -counts[pair])
    positions = [by_frequency.index(pair) for pair in unseen]
    assert [position // 5 for position in positions] == [0, 1, 2, 3, 4]
    assert list(unseen.values()) == ["test", "val", "test", "val", "test"]
    assert choose_unseen(counts, 0.2, 3, "exact") == unseen
    assert choose_unseen(counts, 0.2, 4, "exact") != unseen
    # 5 + 5 words need a seen pair each: no more than 25 - 5 pairs can be unseen.
    assert 5 < len(choose_unseen(counts, 1.0, 3, "exact")) <= 20


@pytest.mark.parametrize("shares", [(0.9, 0.1, 0.0), (0.9, 0.0, 0.1), (0.0, 0.5, 0.5)])
def test_no_split_may_be_left_out(shares: tuple[float, float, float]) -> None:
    """Training, the choice of an epoch and the scores need one each, and say so much later."""
    with pytest.raises(ValueError, match="must be above 0 and below 1: train is learnt from"):
        fractions(*shares)


def test_a_split_that_the_data_set_brings_is_used() -> None:
    rows = [
        ("p0", "A", "u"),
        ("p1", "A", "u"),
        ("p2", "B", "u"),
        ("p3", "B", "v"),
        ("p4", "C", "v"),
        ("p5", None, None),
    ]
    split = ["train", "test", "val", "test", None, "val"]
    splits = make_splits(labels(rows, split), parameters(), 0)
    assert splits.images["pair_split"].to_pylist() == ["train", "test", "val", "test", None, None]
    assert splits.images["pair_seen"].to_pylist() == [True, True, False, False, None, None]
    assert splits.pairs.to_pylist() == [
        {"attribute": "A", "object": "u", "split": "train", "seen": True, "images": 2},
        {"attribute": "B", "object": "u", "split": "val", "seen": False, "images": 1},
        {"attribute": "B", "object": "v", "split": "test", "seen": False, "images": 1},
    ]
    with pytest.raises(SplitError, match="image 'i1': pair_split is 'dev', expected train"):
        make_splits(labels(rows, ["train", "dev", *split[2:]]), parameters(), 0)
    both = [*rows, ("p6", "B", "v")]
    with pytest.raises(SplitError, match=r"pair B, v is unseen .*both val and test"):
        make_splits(labels(both, [*split, "val"]), parameters(), 0)


def test_images_keep_the_order_of_the_catalog_whatever_a_join_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A join of Polars keeps the order of its rows only where it is asked to."""
    rows = [(f"p{n}", "ABCDE"[n % 5], "uvwxyz"[n % 6]) for n in range(300)]
    catalogs = [(labels(rows), None)]
    given = labels(rows, [("train", "val", "test")[n % 5 % 3] for n in range(300)])
    pairs = [(a, o, "train") for a in "ABCDE" for o in "uvwxyz"]
    catalogs.append((given, pa.Table.from_pylist([*map(listed_pair, pairs)], LISTED_PAIRS)))
    kept = [make_splits(catalog, parameters(), 0, listed) for catalog, listed in catalogs]
    join = pl.DataFrame.join

    def unordered(self: pl.DataFrame, *args: Any, **options: Any) -> pl.DataFrame:
        joined = join(self, *args, **options)
        ordered = options.get("maintain_order") == "left"
        return joined if ordered else joined.sample(fraction=1.0, shuffle=True, seed=1)

    monkeypatch.setattr(pl.DataFrame, "join", unordered)
    for (catalog, listed), expected in zip(catalogs, kept, strict=True):
        assert make_splits(catalog, parameters(), 0, listed) == expected
        assert expected.images["image_id"].to_pylist() == catalog["image_id"].to_pylist()
    catalog, listed = catalogs[1]
    assert listed is not None
    with pytest.raises(SplitError, match="image 'i0' of train: the data set does not list"):
        make_splits(catalog, parameters(), 0, listed.slice(1))


def listed_pair(row: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(LISTED_PAIRS.names, row, strict=True))


def test_words_beyond_the_labels_widen_the_closed_world() -> None:
    catalog = labels([(f"p{n}", "A", "uv"[n % 2]) for n in range(6)])
    splits = make_splits(
        catalog, parameters(unseen_pairs=0.0, attributes=["Off White"], objects=["v", "w"]), 0
    )
    pairs = {(row["attribute"], row["object"]): row for row in splits.pairs.to_pylist()}
    assert list(pairs) == sorted((a, o) for a in ("A", "Off.White") for o in "uvw")
    assert [pair for pair, row in pairs.items() if row["seen"]] == [("A", "u"), ("A", "v")]
    assert pairs["Off.White", "u"] == {
        "attribute": "Off.White",
        "object": "u",
        "split": "test",
        "seen": False,
        "images": 0,
    }
    assert splits.metrics["added_pairs"] == 4
    with pytest.raises(ValueError, match="underscore"):
        parameters(objects=["a_b"])


def test_a_word_that_is_a_label_in_another_spelling_is_that_label() -> None:
    catalog = labels([(f"p{n}", "Off.White", "uv"[n % 2]) for n in range(6)])
    splits = make_splits(
        catalog, parameters(unseen_pairs=0.0, attributes=["off  white"], objects=["V", "w"]), 0
    )
    pairs = {(row["attribute"], row["object"]) for row in splits.pairs.to_pylist()}
    assert pairs == {("Off.White", object_) for object_ in "uvw"}
    with pytest.raises(ValueError, match=r"names 'Boat Shoes' and 'boat shoes'"):
        parameters(objects=["Boat.Shoes", "boat shoes"])


def test_without_labels_words_must_be_given() -> None:
    catalog = labels([(f"p{n}", None, None) for n in range(5)])
    for words in ({}, {"attributes": ["A"]}):
        with pytest.raises(SplitError, match=r"no image has a label.*split\.attributes"):
            make_splits(catalog, parameters(**words), 0)
    splits = make_splits(catalog, parameters(attributes=["A", "B"], objects=["u"]), 0)
    assert splits.pairs.num_rows == splits.metrics["added_pairs"] == 2
    assert splits.images["pair_split"].null_count == 5


def test_objects_alone_may_be_given_without_labels() -> None:
    catalog = labels([(f"p{n}", None, None) for n in range(5)])
    splits = make_splits(catalog, parameters(objects=["u", "a b"]), 0)
    check_no_nulls(splits.pairs, PAIRS_OF_OBJECTS, "the test")
    assert splits.pairs["object"].to_pylist() == ["a.b", "u"]
    assert splits.pairs["attribute"].null_count == 2


@pytest.mark.parametrize("assignment", ["exact", "stable"])
def test_of_objects_alone_none_is_unseen_and_images_follow_products(assignment: Assignment) -> None:
    rows = [(f"p{n % 40}", None, (None, "u", "v", "w")[n % 4]) for n in range(200)]
    catalog = labels(rows)
    splits = make_splits(catalog, parameters(objects=["x"]), 0, assignment=assignment)
    assert splits.images["attribute"].null_count == len(rows)
    assert splits.images["object"].to_pylist() == [row[2] for row in rows]
    for caption, pair, name in zip(
        *(splits.images[key].to_pylist() for key in ("caption_split", "pair_split", "object")),
        strict=True,
    ):
        assert pair == (None if name is None else caption)
    check_no_nulls(splits.pairs, PAIRS_OF_OBJECTS, "the test")
    assert pairs_schema(splits.pairs) == PAIRS_OF_OBJECTS
    assert splits.pairs.drop_columns(["split"]).to_pylist() == [
        {"attribute": None, "object": name, "seen": name != "x", "images": 50 * (name != "x")}
        for name in "uvwx"
    ]
    assert splits.metrics["pairs"] == {"seen": 3, "unseen_val": 0, "unseen_test": 0}
    assert "unseen_pairs" not in splits.metrics["deviation"]  # nobody could choose any
    with pytest.raises(SplitError, match=r"split\.attributes names A, .* objects alone"):
        make_splits(catalog, parameters(attributes=["A"]), 0)


def test_exact_gives_what_it_gave() -> None:
    """Digests of what version 0.1.0 made of these catalogs."""
    rows = [(f"p{n * 7 % 311}", "ABCDEFG"[n * n % 7], "uvwxyz"[n % 6]) for n in range(900)]
    rows[5] = ("p35", None, None)
    rows[6] = ("p42", "H", "u")
    found = hashlib.sha256()
    for catalog in (labels(rows), labels(rows[:12])):
        for seed in (0, 7):
            splits = make_splits(catalog, parameters(), seed)
            for table in (splits.images, splits.pairs):
                found.update(json.dumps(table.to_pylist()).encode())
    assert found.hexdigest() == "954c6ee32636f7172c04a3a4210b4358dc2c5a345f356d0f4d6e99b3f14eb149"


products = st.lists(st.integers(0, 999), min_size=3, max_size=60, unique=True)


@cache
def among_a_thousand(seed: int) -> dict[str, str]:
    return sides([f"p{n}" for n in range(1000)], fractions(0.5, 0.3, 0.2), seed, "stable")


@given(products, products, st.integers(0, 5))
def test_stable_products_stay_whatever_comes_and_goes(
    some: list[int], others: list[int], seed: int
) -> None:
    shares = fractions(0.5, 0.3, 0.2)
    names, more = ([f"p{n}" for n in numbers] for numbers in (some, {*some, *others}))
    before, after = sides(names, shares, seed, "stable"), sides(more, shares, seed, "stable")
    assert set(before.values()) == set(after.values()) == set(SPLIT_NAMES)
    moved = [name for name in names if before[name] != after[name]]
    alone = among_a_thousand(seed)
    # Only what a split that none fell into had borrowed moves, and to where it belongs.
    borrowed = [name for name in names if before[name] != alone[name]]
    if len({alone[name] for name in names}) == len(SPLIT_NAMES):
        assert not borrowed
    assert len(borrowed) <= 2
    assert set(moved) <= {*borrowed, *(name for name in more if after[name] != alone[name])}


def test_stable_fractions_are_near_those_asked_for() -> None:
    found = Counter(sides([f"p{n}" for n in range(20_000)], fractions(), 3, "stable").values())
    # Four standard deviations of a share of 0.1 of 20,000.
    assert found["val"] == pytest.approx(2000, abs=170)
    assert found["test"] == pytest.approx(2000, abs=170)


def test_an_empty_split_borrows_the_nearest_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"p{n}" for n in range(3)]
    found = sides(names, fractions(0.98, 0.01, 0.01), 1, "stable")
    assert sorted(found.values()) == ["test", "train", "val"]
    assert "none of 3 products falls into val, which borrows one of train" in caplog.text
    assert "split.assignment: exact" in caplog.text


words = st.tuples(st.sampled_from("ABCDEFGH"), st.sampled_from("stuvwxyz"))


@given(
    st.lists(words, min_size=1, max_size=40),
    st.lists(words, max_size=40),
    st.sampled_from([0.1, 0.3, 0.7]),
    st.integers(0, 9),
)
def test_a_stable_unseen_pair_stays_unseen_as_pairs_and_images_come(
    some: list[tuple[str, str]], more: list[tuple[str, str]], share: float, seed: int
) -> None:
    before = choose_unseen(Counter(some), share, seed, "stable")
    after = choose_unseen(Counter(some + more), share, seed, "stable")
    assert before.items() <= after.items()
    seen = set(some) - set(before)
    assert all(any(a == other for other, _ in seen) for a, _ in before)
    assert all(any(o == other for _, other in seen) for _, o in before)
    assert choose_unseen(dict.fromkeys(reversed(some), 5), share, seed, "stable") == before


def test_stable_unseen_pairs_are_about_as_many_as_asked_in_both_splits() -> None:
    pairs = {(f"a{a}", f"o{o}"): 1 for a in range(60) for o in range(60)}
    found = Counter(choose_unseen(pairs, 0.2, 3, "stable").values())
    assert found["val"] == pytest.approx(360, abs=70)
    assert found["test"] == pytest.approx(360, abs=70)


def test_of_a_stable_seen_pair_outside_the_training_products_one_product_moves() -> None:
    rows = [(f"p{n}", "A", "u") for n in range(60)]
    side = sides([row[0] for row in rows], fractions(), 0, "stable")
    held_out = [name for name, split in side.items() if split != "train"]
    catalog = labels([(name, "B" if name in held_out else "A", "u") for name, *_ in rows])
    splits = make_splits(catalog, parameters(unseen_pairs=0.0), 0, assignment="stable")
    of_pair = [row for row in splits.images.to_pylist() if row["attribute"] == "B"]
    assert len(of_pair) == len(held_out) > 3
    moved = [row for row in of_pair if row["pair_split"] != row["caption_split"]]
    assert [row["pair_split"] for row in moved] == ["train"]
    assert splits.metrics["pair_images"]["moved_to_train"] == 1


def test_null_is_stable_where_the_data_set_grows() -> None:
    assert parameters().assignment_of(grows=True) == "stable"
    assert parameters().assignment_of(grows=False) == "exact"
    assert parameters(assignment="exact").assignment_of(grows=True) == "exact"
    assert parameters(assignment="stable").assignment_of(grows=False) == "stable"


def test_equal_photos_on_both_sides_are_counted(tmp_path: Path) -> None:
    photos = [b"a", b"b", b"a", b"c", b"c", b"b", b"a"]
    caption_splits = ["train", "val", "test", "val", "val", "val", "val"]
    with open_shards(tmp_path / "catalog", 1) as shards:
        for n, photo in enumerate(photos):
            shards.write(CatalogRow(f"i{n}", f"p{n}", photo, f"{n}.jpg"))
    assert shards.equal_images == 4
    splits = pa.table({"caption_split": caption_splits})
    assert contents_across_splits(tmp_path / "catalog", splits) == 1
    splits = pa.table({"caption_split": [*caption_splits[:5], "test", "val"]})
    assert contents_across_splits(tmp_path / "catalog", splits) == 2
