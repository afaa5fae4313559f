"""The hub's layout, from a local folder: filters, labels, rare pairs, and wrong layouts."""

import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from base_section import base_section
from PIL import Image

from compositional_prompts.datasets.columns import ColumnError
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.hub.fashion_products import FashionProducts
from compositional_prompts.datasets.hub.hub_layout import HubError
from compositional_prompts.files.tables import IMAGE

BASE = base_section(Path("rows"), workers=1)

TEXT = ("gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "usage")


def select(data_set: FashionProducts) -> Selection:
    return data_set.select(BASE)


def parameters(source: Path | str, **changes: Any) -> FashionProducts:
    values: dict[str, Any] = {
        "source": str(source),
        "revision": None,
        "filters": {"masterCategory": ["Footwear"]},
        "attribute": "baseColour",
        "object": "articleType",
        "min_pair_images": 1,
        "missing_labels": ["NA", ""],
        "on_missing": "drop",
        "limit": None,
    }
    return FashionProducts.model_validate(values | changes)


def product(identifier: int | None, color: str | None, kind: str | None, **more: Any) -> dict:
    row: dict[str, Any] = dict.fromkeys(TEXT, "x") | {
        "id": identifier,
        "masterCategory": "Footwear",
        "articleType": kind,
        "baseColour": color,
        "year": 2012.0,
        "productDisplayName": f"Shoe {identifier}",
        "image": {"bytes": b"photo %d" % (identifier or 0), "path": None},
    }
    return row | more


SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        *((name, pa.string()) for name in TEXT),
        ("year", pa.float64()),
        ("productDisplayName", pa.string()),
        ("image", IMAGE),
    ]
)


def mirror(folder: Path, *files: list[dict], row_group: int = 4) -> Path:
    """The rows as data/part-N.parquet of a folder."""
    (folder / "data").mkdir(parents=True)
    for number, rows in enumerate(files):
        pq.write_table(
            pa.Table.from_pylist(rows, SCHEMA),
            folder / "data" / f"part-{number}.parquet",
            row_group_size=row_group,
        )
    return folder


def test_rows_of_the_hub_become_rows_of_the_catalog(tmp_path: Path) -> None:
    image = {"bytes": b"jpeg", "path": "1163.jpg"}
    source = mirror(
        tmp_path,
        [product(1163, "Navy Blue", "Casual Shoes", image=image), product(2, "Red", "Heels")],
        [product(3, "Red", "Heels", productDisplayName=" ", image=None)],
    )
    selection = select(parameters(source))
    first, second, third = selection.rows
    assert selection.total == 3
    assert first.image_id == first.product_id == "fashion-1163"
    assert (first.image, first.path) == (b"jpeg", "1163.jpg")
    assert (first.attribute, first.object) == ("Navy.Blue", "Casual.Shoes")
    assert (first.truth["color"], first.title) == ("navy blue", "Shoe 1163")
    assert (second.image, second.path) == (b"photo 2", "2.jpg")
    assert (third.image, third.title) == (None, None)


def test_everything_left_out_is_counted(tmp_path: Path) -> None:
    source = mirror(
        tmp_path,
        [product(n, "Red", "Heels") for n in range(5)]
        + [product(5, "NA", "Heels"), product(6, None, "Heels"), product(7, "Red", "")],
        [product(n, "Red", "Watch", masterCategory="Accessories") for n in range(10, 21)]
        + [product(21, "Blue", "Heels"), product(22, "Red", "Heels")],
    )
    selection = select(parameters(source, min_pair_images=2, limit=9))
    assert [row.image_id for row in selection.rows] == [f"fashion-{n}" for n in range(5)]
    assert selection.dropped == {
        "filtered": 11,
        "over_limit": 1,
        "missing_label": 3,
        "rare_pair": 1,
    }


def test_unlabelled_images_are_kept_when_asked(tmp_path: Path) -> None:
    source = mirror(tmp_path, [product(1, "NA", "Heels"), product(2, "Red", "Heels")])
    selection = select(parameters(source, on_missing="keep"))
    first, second = selection.rows
    assert (first.attribute, first.object, first.truth["color"]) == (None, None, None)
    assert (second.attribute, second.object, second.truth["color"]) == ("Red", "Heels", "red")
    assert selection.dropped["missing_label"] == 0


def test_other_columns_as_attribute_and_filter(tmp_path: Path) -> None:
    source = mirror(
        tmp_path,
        [product(1, "Red", "Heels", gender="Women", usage="Party"), product(2, "Red", "Heels")],
    )
    selection = select(
        parameters(source, attribute="usage", filters={"gender": ["Women", "Girls"]})
    )
    (row,) = selection.rows
    assert (row.attribute, row.object, row.truth["color"]) == ("Party", "Heels", "red")
    assert selection.dropped["filtered"] == 1


def test_a_filter_that_keeps_nothing_selects_nothing(tmp_path: Path) -> None:
    source = mirror(tmp_path, [product(1, "Red", "Heels")])
    selection = select(parameters(source, filters={"gender": ["Nobody"]}))
    assert selection.total == 0
    assert list(selection.rows) == []
    assert selection.dropped["filtered"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_selection_agrees_with_polars(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    colors = [None, "", "NA", "Red", "Navy Blue", "Tan"]
    kinds = ["Heels", "Flip Flops", None]
    rows = [
        product(
            n,
            colors[rng.integers(len(colors))],
            kinds[rng.integers(len(kinds))],
            masterCategory=["Footwear", "Apparel", None][rng.integers(3)],
        )
        for n in rng.permutation(300).tolist()
    ]
    source = mirror(tmp_path, rows[:100], rows[100:], row_group=16)
    selection = select(parameters(source, min_pair_images=6))
    labels = pl.DataFrame(rows, schema_overrides={"image": pl.Object}).drop("image")
    footwear = labels.filter(pl.col("masterCategory") == "Footwear")
    known = footwear.filter(
        pl.col("baseColour").is_in(["Red", "Navy Blue", "Tan"]), pl.col("articleType").is_not_null()
    )
    kept = known.filter(pl.len().over("baseColour", "articleType") >= 6)
    found = list(selection.rows)
    assert [row.image_id for row in found] == [f"fashion-{n}" for n in kept["id"]]
    assert [row.image for row in found] == [b"photo %d" % n for n in kept["id"]]
    assert [row.attribute for row in found] == kept["baseColour"].str.replace(" ", ".").to_list()
    assert selection.dropped == {
        "filtered": 300 - footwear.height,
        "over_limit": 0,
        "missing_label": footwear.height - known.height,
        "rare_pair": known.height - kept.height,
    }
    assert 0 < kept.height < known.height


@pytest.mark.parametrize("column", ["id", "image", "productDisplayName", "articleType", "usage"])
def test_a_missing_column_names_column_file_and_columns_found(tmp_path: Path, column: str) -> None:
    source = mirror(tmp_path, [product(1, "Red", "Heels")])
    file = source / "data" / "part-0.parquet"
    pq.write_table(pq.read_table(file).drop_columns(column), file)
    told = rf"part-0\.parquet: column '{column}' is missing; found .*year"
    with pytest.raises((ColumnError, HubError), match=told):
        select(parameters(source, filters={"usage": ["x"]}))


def test_numbers_are_filtered_as_they_are_written(tmp_path: Path) -> None:
    rows = [product(n, "Red", "Heels", year=2010.0 + n) for n in range(4)]
    selection = select(parameters(mirror(tmp_path, rows), filters={"year": ["2012", "2013"]}))
    assert [row.image_id for row in selection.rows] == ["fashion-2", "fashion-3"]


def test_photos_of_another_kind_are_told(tmp_path: Path) -> None:
    source = mirror(tmp_path, [product(1, "Red", "Heels")])
    file = source / "data" / "part-0.parquet"
    table = pq.read_table(file)
    place = table.column_names.index("image")
    pq.write_table(table.set_column(place, "image", pa.array(["1.jpg"])), file)
    with pytest.raises(HubError, match=r"part-0\.parquet: column 'image' is string, expected pho"):
        select(parameters(source))


def cut_by_polars(file: Path) -> None:
    frame = pl.read_parquet(file).with_columns(
        pl.col("id").cast(pl.UInt32), pl.col("articleType").cast(pl.Categorical)
    )
    # Polars knows no type of a column that it was given no value for.
    frame = frame.with_columns(
        pl.lit(None).alias("season"),
        pl.struct(pl.col("image").struct.field("bytes"), pl.lit(None).alias("path")).alias("image"),
    )
    frame.write_parquet(file, row_group_size=3)


def cut_by_pandas(file: Path) -> None:
    frame = pq.read_table(file).to_pandas()
    frame["baseColour"] = frame["baseColour"].astype("category")
    frame.to_parquet(file)


def written_as(**types: pa.DataType) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        table = pq.read_table(file)
        for name, kind in types.items():
            place = table.column_names.index(name)
            column = table.column(name).combine_chunks()
            if pa.types.is_dictionary(kind):
                column = column.dictionary_encode()
            elif name == "image":
                parts = {field.name: column.field(field.name).cast(field.type) for field in kind}
                column = pa.StructArray.from_arrays(list(parts.values()), list(parts))
            else:
                column = column.cast(kind)
            table = table.set_column(place, name, column)
        pq.write_table(table, file)

    return write


SPELLED = {
    "polars": cut_by_polars,
    "pandas": cut_by_pandas,
    "large": written_as(
        **dict.fromkeys(("articleType", "masterCategory"), pa.large_string()),
        image=pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())]),
    ),
    "views": written_as(
        **dict.fromkeys(("articleType", "masterCategory", "baseColour"), pa.string_view()),
        image=pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
    ),
    "dictionaries": written_as(
        **dict.fromkeys(("masterCategory", "baseColour"), pa.dictionary(pa.int32(), pa.string()))
    ),
    "small numbers": written_as(id=pa.uint8()),
    "no path": written_as(image=pa.struct([("bytes", pa.binary())])),
}


@pytest.mark.parametrize("tool", SPELLED)
def test_files_are_read_alike_whatever_tool_wrote_them(tmp_path: Path, tool: str) -> None:
    rows = [
        product(
            n,
            ["Red", "Navy Blue", None][n % 3],
            ["Heels", "Flip Flops"][n % 2],
            masterCategory=["Footwear", "Footwear", "Apparel", None][n % 4],
            season=None,
        )
        for n in range(40)
    ]
    source = mirror(tmp_path, rows)
    params = parameters(source, min_pair_images=2, limit=16)
    expected = select(params)
    rows_expected = list(expected.rows)
    assert len(rows_expected) > 5
    file = source / "data" / "part-0.parquet"
    before = pq.read_schema(file)
    SPELLED[tool](file)
    assert pq.read_schema(file).types != before.types
    found = select(params)
    assert list(found.rows) == rows_expected
    assert (found.total, found.dropped) == (expected.total, expected.dropped)


def test_a_column_that_has_no_value_has_no_type(tmp_path: Path) -> None:
    source = mirror(tmp_path, [product(n, "Red", "Heels") for n in range(3)])
    file = source / "data" / "part-0.parquet"
    table = pq.read_table(file)
    for name in ("baseColour", "image", "productDisplayName"):
        table = table.set_column(table.column_names.index(name), name, pa.nulls(3))
    pq.write_table(table, file)
    rows = list(select(parameters(source, on_missing="keep")).rows)
    assert [(row.image, row.attribute, row.title) for row in rows] == [(None, None, None)] * 3
    table = pq.read_table(file)
    pq.write_table(table.set_column(0, "id", pa.nulls(3)), file)
    with pytest.raises(ColumnError, match=r"part-0\.parquet, row 0: a row has no id"):
        select(parameters(source))


def test_ids_must_be_there_once(tmp_path: Path) -> None:
    other = product(5, "Red", "Heels", masterCategory="Apparel")
    twice = mirror(
        tmp_path / "a",
        [other, product(4, "Red", "Heels"), product(5, "Red", "Heels")],
        [product(6, "Tan", "Heels"), product(5, "Tan", "Heels")],
    )
    with pytest.raises(
        HubError,
        match=r"image_id '5' occurs twice: in .*part-0\.par.*, row 2 and in .*part-1\.par.*, row 1",
    ):
        select(parameters(twice))
    none = mirror(tmp_path / "b", [product(None, "Red", "Heels")])
    with pytest.raises(ColumnError, match="row 0: a row has no id"):
        select(parameters(none))


def test_an_underscore_in_a_label_is_a_space(tmp_path: Path) -> None:
    source = mirror(tmp_path, [product(5, "Navy_Blue", "Heels"), product(6, "Navy Blue", "Heels")])
    assert [row.attribute for row in select(parameters(source)).rows] == ["Navy.Blue"] * 2


def photos_folder() -> Path:
    """The real photographs, or a skip that says where they were looked for."""
    beside = Path(__file__).parents[3] / "shared" / "data" / "fashion-product-images-small"
    folder = Path(os.environ.get("COMPOSITIONAL_PROMPTS_PHOTOS", beside))
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}; set COMPOSITIONAL_PROMPTS_PHOTOS to a folder")
    return folder


@pytest.mark.real_photos
def test_all_footwear_photographs_are_selected_and_decode() -> None:
    folder = photos_folder()
    selection = select(parameters(folder))
    labels = pl.read_parquet(
        folder / "data" / "*.parquet", columns=["id", "masterCategory", "baseColour", "articleType"]
    )
    footwear = labels.filter(pl.col("masterCategory") == "Footwear")
    assert selection.dropped["filtered"] == labels.height - footwear.height
    colors: Counter[str | None] = Counter()
    for number, row in enumerate(selection.rows):
        colors[row.truth["color"]] += 1
        if number % 100 == 0:
            assert row.image is not None
            assert Image.open(io.BytesIO(row.image)).size in ((60, 80), (60, 60))
    known = footwear.filter(~pl.col("baseColour").is_in(["NA", ""]))
    assert colors == Counter(known["baseColour"].str.to_lowercase().to_list())
    assert selection.total == sum(colors.values()) == known.height
