"""What the columns of a table mean: labels, truth, classes by number, and what is no value."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from compositional_prompts.datasets.columns import ColumnError, ColumnReader, Columns

NONE: dict[str, Any] = dict.fromkeys(
    ("image", "image_id", "product_id", "attribute", "object", "title")
) | {"truth": []}


def columns(**named: Any) -> Columns:
    return Columns.model_validate(NONE | named)


def test_a_record_is_read_by_the_mapping() -> None:
    mapping = columns(
        image="photo",
        image_id="sku",
        product_id="parent",
        attribute="colour",
        object="kind",
        title="name",
        truth=[{"group": "color", "column": "colour"}, {"group": "material", "column": "made_of"}],
    )
    record = {
        "sku": 7,
        "parent": 3.0,
        "colour": " Navy  Blue ",
        "kind": "ankle_boots",
        "name": " Boots of suede ",
        "made_of": ["suede", "NA", "rubber"],
        "season": "autumn",
    }
    reader = ColumnReader(mapping, ["NA"])
    assert reader.image_id(record, "a.csv, line 2") == "7"
    assert reader.describe(record, "a.csv, line 2") == (
        "3",
        "Navy.Blue",
        "ankle.boots",
        "Boots of suede",
        {"color": "Navy  Blue", "material": "suede;rubber"},
    )
    assert mapping.described == ["sku", "parent", "colour", "kind", "name", "made_of"]
    assert mapping.kept_out(["photo", *record]) == ["season"]


@pytest.mark.parametrize("unknown", [None, "", "  ", "NA", " NA ", float("nan"), "_"])
def test_labels_are_known_together_or_not_at_all(unknown: object) -> None:
    reader = ColumnReader(columns(attribute="a", object="o"), ["NA"])
    for record in ({"a": unknown, "o": "Boots"}, {"a": "Red", "o": unknown}, {}):
        described = reader.describe(record, "here")
        assert (described.attribute, described.object) == (None, None)


def test_one_label_is_the_object() -> None:
    reader = ColumnReader(columns(object="label"), ["Not sure"])
    assert reader.describe({"label": "T-Shirt"}, "here")[1:3] == (None, "T-Shirt")
    assert reader.describe({"label": "Not sure"}, "here")[1:3] == (None, None)
    with pytest.raises(ValidationError, match="one label only, name it as object"):
        columns(attribute="label")


def test_numbers_of_classes_become_their_names() -> None:
    mapping = columns(object="fine", title="fine", truth=[{"group": "kind", "column": "coarse"}])
    classes = {"fine": ["apple", "aquarium_fish", "Other"], "coarse": ["fruit", "fish_"]}
    reader = ColumnReader(mapping, ["Other"], classes)
    described = reader.describe({"fine": 1, "coarse": 1}, "here")
    assert described == (None, None, "aquarium.fish", "aquarium fish", {"kind": "fish"})
    for unknown in (-1, 2, None):
        assert reader.describe({"fine": unknown, "coarse": 0}, "here").object is None
    for number in (3, -2):
        with pytest.raises(
            ColumnError,
            match=rf"part 1, row 5: column 'fine' is {number}, expected .* one of its 3 classes",
        ):
            reader.describe({"fine": number}, "part 1, row 5")


@pytest.mark.parametrize(
    ("value", "text"),
    [(2012.0, "2012"), (0.5, "0.5"), (0, "0"), (True, "true"), (date(2020, 1, 2), "2020-01-02")],
)
def test_what_is_no_text_is_written(value: object, text: str) -> None:
    assert ColumnReader(columns(title="t"), []).describe({"t": value}, "here").title == text


@pytest.mark.parametrize(
    ("value", "kind"), [(b"x", "bytes"), ({"a": 1}, "a group of values"), (["x"], "a list")]
)
def test_what_cannot_be_a_label_is_told(value: object, kind: str) -> None:
    reader = ColumnReader(columns(object="o"), [])
    with pytest.raises(ColumnError, match=f"x.csv, line 3: column 'o' holds {kind}, expected text"):
        reader.describe({"o": value}, "x.csv, line 3")


def test_a_missing_column_and_a_missing_id_are_told() -> None:
    mapping = columns(image="photo", image_id="sku", object="kind")
    mapping.require(["kind", "sku", "photo"], "a.csv")
    for lacking in ("photo", "sku", "kind"):
        found = [name for name in ("photo", "sku", "kind") if name != lacking]
        with pytest.raises(ColumnError, match=f"a.csv: column '{lacking}' is missing; found "):
            mapping.require(found, "a.csv")
    with pytest.raises(ColumnError, match="line 2: a row has no sku; every row needs one"):
        ColumnReader(mapping, []).image_id({"sku": " "}, "line 2")
    assert ColumnReader(mapping, ["NA"]).image_id({"sku": "NA"}, "line 2") == "NA"
    assert ColumnReader(columns(), []).image_id({}, "line 2") is None


def test_a_group_of_truth_has_one_column() -> None:
    twice = [{"group": "color", "column": name} for name in ("a", "b")]
    with pytest.raises(ValidationError, match="names the group 'color' 2 times"):
        columns(truth=twice)
