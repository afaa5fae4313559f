"""What the list of photos is made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compositional_prompts.catalog.reading import iterate_images
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.outputs import MismatchedOutputsError
from compositional_prompts.files.tables import read_table, write_table
from compositional_prompts.reporting.browsing.coverage import curve
from compositional_prompts.reporting.browsing.inline_script import as_json
from compositional_prompts.reporting.browsing.page_parts import (
    coverage_chart,
    coverage_table,
    shown_sentence,
)
from compositional_prompts.reporting.browsing.said_words import judge
from compositional_prompts.reporting.browsing.shown_photos import choose_shown
from compositional_prompts.reporting.content.page_tables import Row, Table, known_part
from compositional_prompts.reporting.drawing.charts import render
from compositional_prompts.reporting.drawing.thumbnails import LIST, read_small_photos
from compositional_prompts.reporting.stage_results import read_results
from compositional_prompts.scoring.recommended_texts import RECOMMENDED
from compositional_prompts.troika.original_prompts import PROMPTS_OF_OBJECTS

PLACES = ("attribute", "object", "color")


def splits_table(path: Path, names: list[str]) -> Path:
    rows = [
        dict.fromkeys(SPLITS.names)
        | {"image_id": f"i{at}", "product_id": f"p{at}", "caption_split": name}
        for at, name in enumerate(names)
    ]
    write_table(pa.Table.from_pylist(rows, SPLITS), path, SPLITS)
    return path


def test_a_small_catalog_is_shown_whole(tmp_path: Path) -> None:
    shown = choose_shown(splits_table(tmp_path / "s.parquet", ["train", "test", "val"]), 3, 7)
    assert shown.image_ids == ["i0", "i1", "i2"] and not shown.is_sample
    assert shown_sentence(shown) == (
        "These are all 3 photos of the catalog: 1 test, 1 validation and 1 training photos."
    )


def test_of_a_large_catalog_test_photos_come_first(tmp_path: Path) -> None:
    names = ["train"] * 30 + ["test"] * 10 + ["val"] * 10
    path = splits_table(tmp_path / "s.parquet", names)
    shown = choose_shown(path, 25, 7)
    assert shown.shown == {"test": 10, "val": 10, "train": 5}
    assert shown.image_ids == sorted(shown.image_ids, key=lambda one: int(one[1:]))
    assert "10 of 10 test, 10 of 10 validation and 5 of 30 training" in shown_sentence(shown)
    assert choose_shown(path, 25, 7) == shown != choose_shown(path, 25, 8)
    assert choose_shown(path, 4, 7).shown == {"test": 4}


def test_an_empty_catalog_shows_nothing(tmp_path: Path) -> None:
    shown = choose_shown(splits_table(tmp_path / "s.parquet", []), 3, 7)
    assert (list(shown.image_ids), shown.is_sample) == ([], False)
    assert shown_sentence(shown) == "The catalog holds no photo."


def test_words_are_judged_as_the_metrics_do() -> None:
    truth = {"attribute": ("Suede",), "object": (), "color": ("red", "Dark Red ")}
    said = {"attribute": "suede", "object": "Boots", "color": "dark red"}
    assert judge(said, truth, PLACES) == "rur"
    assert judge({**said, "color": None}, truth, PLACES) == "ruw"
    assert judge(None, truth, PLACES) == "wuw", "off the template"
    assert judge(said, {}, PLACES) == "uuu"


def test_coverage_against_accuracy() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.7, 0.1])
    found = curve(scores, np.array([True, True, False, True, False]))
    points = dict(zip(found.coverage, found.accuracy, strict=True))
    # The two of one score are kept together.
    assert points == pytest.approx({0.2: 1, 0.4: 1, 0.8: 0.75, 1.0: 0.6})
    assert found.thresholds == pytest.approx([0.9, 0.8, 0.7, 0.1])
    table = coverage_table({"color": found})
    assert table.groups == [("color, 5 photos", 2)]
    assert [(row.head, *row.cells) for row in table.rows] == [
        ("100.0 %", "0.100", "60.0 %"),
        ("80.0 %", "0.700", "75.0 %"),
        ("40.0 %", "0.800", "100.0 %"),
        ("20.0 %", "0.900", "100.0 %"),
    ]
    chart = coverage_chart({"color": found})
    assert chart.drawable and "over coverage" in chart.description
    assert "coverage: share of photos" in render(chart)
    assert not coverage_chart({}).drawable and not coverage_table({}).rows


@given(st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1, max_size=60))
def test_a_threshold_of_the_curve_keeps_what_it_says(photos: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in photos])
    right = np.array([true for _, true in photos])
    found = curve(scores, right)
    assert found.coverage[-1] == 1
    for coverage, threshold, accuracy in zip(
        found.coverage, found.thresholds, found.accuracy, strict=True
    ):
        kept = scores >= threshold
        assert kept.mean() == pytest.approx(coverage)
        assert right[kept].mean() == pytest.approx(accuracy)


@given(st.recursive(st.text() | st.none(), st.lists, max_leaves=5))
def test_no_text_leaves_its_script(value: Any) -> None:
    text = as_json(value)
    assert "<" not in text and json.loads(text) == value


def test_what_was_not_measured_takes_no_place() -> None:
    none = "\N{EN DASH}"
    table = Table(
        "t",
        "",
        ["a", "b", "a", "b", "a", "b"],
        [
            Row("one", ["1", none, none, none, none, none]),
            Row("none", [none, none, none, none, "9", "9"]),
            Row("zero", ["0", none, "0", none, none, none]),
            Row("share", ["0.0 %", none, "0.0 %", none, "1", none]),
        ],
        groups=[("x", 2), ("y", 2), ("quoted", 2)],
        reference=2,
    )
    found = known_part(table)
    assert [row.head for row in found.rows] == ["one", "share"]
    assert found.columns == ["a", "a", "a"] and found.reference == 1
    assert found.groups == [("x", 1), ("y", 1), ("quoted", 1)]
    nothing = known_part(Table("t", "", ["a"], [Row("r", [none])]))
    assert (nothing.rows, nothing.columns) == ([], [])


def test_small_copies_shrink_until_they_are_light(project: Any) -> None:
    ids = [row["image_id"] for row in project.rows]
    small = read_small_photos(project.paths.catalog, ids, workers=2)
    assert list(small) == ids and small[ids[3]].path == f"{ids[3]}.jpg"
    assert sum(len(one.webp) * 3 / 4 for one in small.values()) <= LIST.mean_bytes * len(ids)
    assert read_small_photos(project.paths.catalog, ids, workers=1) == small
    assert read_small_photos(project.paths.catalog, [], workers=1) == {}


def test_photos_of_noise_take_the_smallest_size(tmp_path: Path) -> None:
    import base64
    import io

    from compositional_prompts.catalog.schema import CATALOG
    from compositional_prompts.files.digests import content_digest

    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (300, 200, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    row = dict.fromkeys(CATALOG.names) | {"image_id": "a", "product_id": "a"}
    row["content"] = content_digest(buffer.getvalue())
    row["image"] = {"bytes": buffer.getvalue(), "path": None}
    path = tmp_path / "catalog/part-00000.parquet"
    write_table(pa.Table.from_pylist([row], CATALOG), path, CATALOG)
    (one,) = read_small_photos(tmp_path / "catalog", ["a"], workers=1).values()
    with Image.open(io.BytesIO(base64.b64decode(one.webp))) as image:
        assert max(image.size) == 64
    assert one.path == ""


def test_images_are_streamed_by_name(project: Any) -> None:
    wanted = ["image-020", "image-003"]
    batches = list(iterate_images(project.paths.catalog, wanted, batch_size=5))
    found = [one for batch in batches for one in batch.column("image_id").to_pylist()]
    assert found == sorted(wanted)
    with pytest.raises(MismatchedOutputsError, match="nobody"):
        list(iterate_images(project.paths.catalog, ["nobody", "image-003"]))


def test_a_photo_without_a_recommended_text_is_named(project: Any) -> None:
    path = project.paths.recommended
    table = read_table(path, RECOMMENDED)
    write_table(table.slice(1), path, RECOMMENDED)
    with pytest.raises(
        MismatchedOutputsError, match=r"recommended\.parquet lacks image 'image-000'"
    ):
        project.build()


def test_a_sample_of_the_photos_is_said(project: Any) -> None:
    page = project.build(photos=13)
    assert "These are 13 of the catalog, which has 24: 12 of 12 test, 1 of 6 validation" in page
    data = json.loads(page.split('id="photo-data">')[1].split("</script>")[0])
    assert len(data["photos"]["id"]) == 13


def test_the_warnings_stand_on_top(project: Any) -> None:
    page = project.build()
    for warning in (
        "Label more photos &lt;now&gt;.",
        "No truth says &lt;teal&gt;.",
        "No &lt;material&gt; is written.",
    ):
        assert page.index(warning) < page.index("At a glance")
    project.change_metrics("recommend.json", {"warnings": []})
    project.change_metrics("check_data.json", {"warnings": []})
    project.change_metrics("drift.json", {"warnings": []})
    project.change_metrics("word_scorer.json", {})
    assert read_results(project.paths.metrics).warnings == []
    project.change_metrics("recommend.json", {"warnings": "x"})
    with pytest.raises(ValueError, match="must be a list of sentences, found 'x'"):
        _ = read_results(project.paths.metrics).warnings


def test_photos_of_objects_alone_are_looked_up(project: Any) -> None:
    """Where no label has an attribute, tables have none in any row."""
    paths = project.paths
    for path, schema in (
        (paths.splits, SPLITS),
        (paths.prompts, enhanced_prompts_schema(["color", "material"])),
        (paths.original, PROMPTS_OF_OBJECTS),
    ):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row["attribute"] = None
            if "top_attributes" in row:
                row["top_attributes"] = [None] * len(row["top_objects"])
        write_table(pa.Table.from_pylist(rows, schema), path, schema)
    page = project.build()
    assert f"These are all {len(project.rows)} photos of the catalog" in page
    assert "null_" not in page and "None_" not in page
