"""The parts that the page is put together from."""

from __future__ import annotations

import base64
import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compositional_prompts.reporting.content import formats
from compositional_prompts.reporting.content.confusion import OTHER, tabulate
from compositional_prompts.reporting.content.differences import compare, plain
from compositional_prompts.reporting.content.galleries import attribute_groups
from compositional_prompts.reporting.content.page_tables import (
    branches_table,
    few_products,
    known_part,
    leads_table,
    troika_table,
)
from compositional_prompts.reporting.content.photo_choice import choose
from compositional_prompts.reporting.content.versions import library_versions
from compositional_prompts.reporting.drawing.charts import (
    Chart,
    Series,
    inline,
    render,
    write_chart,
)
from compositional_prompts.reporting.drawing.thumbnails import as_data_uris, write_contact_sheet
from compositional_prompts.results.stage_metrics import (
    ReportInputError,
    bounds,
    number,
    numbers,
)

TEXT = st.text(alphabet="ab_ .\n<é", max_size=30)


@given(TEXT, TEXT)
def test_spans_give_the_text_back(text: str, reference: str) -> None:
    spans = compare(text, reference)
    assert "".join(span.text for span in spans) == text
    assert not any(span.differs for span in compare(text, text))
    words = [w for w in text.replace("_", " ").split() if w]
    kept = "".join(span.text for span in spans if not span.differs).replace("_", " ").split()
    missing = Counter(kept) - Counter(reference.replace("_", " ").split())
    assert not missing, "an unmarked word is not in the reference"
    assert len(kept) <= len(words)


def test_the_halves_of_a_pair_are_compared_apart() -> None:
    spans = compare("A photo of Canvas_Sandals", "A photo of Canvas_Slippers")
    assert [(span.text, span.differs) for span in spans] == [
        ("A photo of Canvas_", False),
        ("Sandals", True),
    ]
    assert plain("") == []


def test_the_choice_follows_the_key_and_not_the_order() -> None:
    rows = [(f"image-{i}", f"object-{i % 3}") for i in range(60)]
    shuffled = rows[:]
    random.Random(5).shuffle(shuffled)
    assert choose(rows, 7, "1/a") == choose(iter(shuffled), 7, "1/a")
    assert choose(rows, 7, "1/a") != choose(rows, 7, "2/a")


@settings(deadline=None)
@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.sampled_from("abc"), max_size=30),
    st.integers(1, 12),
)
def test_groups_take_turns(groups: dict[str, str], count: int) -> None:
    chosen = choose(groups.items(), count, "key")
    assert len(chosen) == len(set(chosen)) == min(count, len(groups))
    shown = Counter(groups[image_id] for image_id in chosen)
    for group, available in Counter(groups.values()).items():
        # A group is shown less often than another only when it has nothing more to show.
        assert shown[group] == available or shown[group] >= max(shown.values()) - 1


def test_confusion_counts_every_image_once() -> None:
    rng = random.Random(3)
    pairs: Counter[tuple[str, str]] = Counter(
        (f"w{int(rng.expovariate(0.02))}", f"w{int(rng.expovariate(0.02))}") for _ in range(5000)
    )
    table = tabulate(pairs)
    assert sum(map(sum, table.counts)) == 5000
    assert len(table.truths) == len(table.predictions) == 21
    assert table.truths[-1] == table.predictions[-1] == OTHER
    totals: Counter[str] = Counter()
    for (truth, predicted), images in pairs.items():
        totals[truth] += images
        totals[predicted] += images
    assert table.merged == len(totals) - 20
    smallest = min(totals[name] for name in table.truths[:-1])
    named = set(table.truths)
    assert all(images <= smallest for name, images in totals.items() if name not in named)
    for name in table.truths[:3]:
        row = table.counts[table.truths.index(name)]
        assert sum(row) == sum(n for (truth, _), n in pairs.items() if truth == name)
    assert all(sum(shares) == pytest.approx(1) for shares in table.shares)


def test_small_and_empty_confusions() -> None:
    table = tabulate({("red", "red"): 2, ("red", "unspecified"): 1})
    assert (table.truths, table.predictions) == (["red"], ["red", "unspecified"])
    assert (table.counts, table.merged) == ([[2, 1]], 0)
    assert tabulate({}).counts == []


def test_numbers_read_as_words() -> None:
    assert formats.count(1234567) == "1,234,567"
    assert formats.percent(0.12345) == "12.3 %"
    assert formats.small_percent(5242880 / 3749922816) == "0.1398 %"
    for form in (formats.count, formats.score, formats.percent):
        assert form(None) == formats.UNKNOWN
    assert str(formats.breakable("a_b.<i>")) == "a_<wbr>b.<wbr>&lt;i&gt;"


def test_metrics_may_be_null_or_absent_but_not_text() -> None:
    metrics = {"a": {"b": 1, "c": None, "d": "x", "e": {"f": 0.5}}, "g": None}
    assert number(metrics, "a", "b") == 1
    assert number(metrics, "a", "c") is None
    assert number(metrics, "a", "b", "z") is None
    assert number(metrics, "g", "z") is None
    assert numbers(metrics, "a") == {"b": 1, "e.f": 0.5}
    assert numbers(metrics, "g") == {}
    with pytest.raises(ReportInputError, match=r"a\.d must be a number, found 'x'"):
        number(metrics, "a", "d")


def test_the_troika_table_has_the_worlds_that_were_measured() -> None:
    exact = {"best_seen": 0.5, "auc": 0.25, "images": 1200, "seen_images": 700}
    opened = {
        "auc": 0.2,
        "best_hm": None,
        "threshold": 0.0625,
        "feasible_unseen_pairs": 31,
        "sampled": {"auc": 0.21},
        "unthresholded": {"auc": 0.1},
    }
    troika = {
        "trained": True,
        "closed": exact | {"sampled": {"auc": 0.24, "best_seen": None}},
        "zero_shot_closed": exact | {"auc": 0.125},
        "open": opened,
        "zero_shot_open": {"threshold": None, "auc": None},
        "feasibility": {"vectors": "clip", "masking": "exclude", "thresholds": 50},
    }
    table = troika_table(troika)
    assert table.groups == [("Closed world", 2), ("Open world", 2)]
    assert table.columns == ["Troika", "Zero-shot CLIP"] * 2
    rows = [(row.head, *row.cells) for row in table.rows]
    none = formats.UNKNOWN
    auc = "Area under the seen-unseen curve (AUC)"
    assert [row for row in rows if set(row[1:]) != {none}] == [
        ("Best seen", "50.0 %", "50.0 %", none, none),
        (auc, "25.0 %", "12.5 %", "20.0 %", none),
        ("AUC, about 20 biases", "24.0 %", none, "21.0 %", none),
        ("AUC, no threshold", none, none, "10.0 %", none),
        ("Least feasibility", none, none, "0.062", none),
        ("Images", "1,200", "1,200", none, none),
        ("Seen images", "700", "700", none, none),
        ("Feasible unseen pairs", none, none, "31", none),
    ]
    # The six metrics are named even where they are not known; nothing else is.
    assert len(rows) == 6 + 6
    alone = troika_table({"zero_shot_open": opened})
    assert alone.groups == [("Open world", 2)]
    assert [row.cells for row in alone.rows if row.head == auc] == [[none, "20.0 %"]]
    assert troika_table({}).columns == []


def test_of_objects_alone_the_troika_table_has_the_majority_beside_it() -> None:
    named = {"object_accuracy": 0.5, "attribute_accuracy": None, "auc": None, "images": 40}
    troika = {
        "closed": named,
        "zero_shot_closed": named | {"object_accuracy": 0.25},
        "majority_closed": {"object": "T-Shirt", "object_accuracy": 0.2, "images": 40},
    }
    table = known_part(troika_table(troika))
    assert table.caption == "Naming the object, test images"
    assert table.columns == ["Troika", "Zero-shot CLIP", "Always T-Shirt"]
    assert [(row.head, *row.cells) for row in table.rows] == [
        ("Object accuracy", "50.0 %", "25.0 %", "20.0 %"),
        ("Images", "40", "40", "40"),
    ]


def test_the_branches_table_has_what_each_branch_gives() -> None:
    branch = {"auc": 0.25, "attribute_accuracy": 0.5, "best_hm": None}
    calibrated = {"calibrated": {"bias": 1.5, "attribute_accuracy": 0.75}}
    troika = {
        "closed": branch,
        "composition_closed": branch | calibrated,
        "primitives_closed": {"auc": 0.125},
    }
    table = branches_table(troika)
    none = formats.UNKNOWN
    assert table.columns == [
        "Troika", "Composition alone", "Primitives alone", "Both, weights of 1", "Zero-shot CLIP",
    ]  # fmt: skip
    assert [(row.head, *row.cells) for row in table.rows] == [
        ("Area under the seen-unseen curve (AUC)", "25.0 %", "25.0 %", "12.5 %", none, none),
        ("Attribute accuracy", "50.0 %", "50.0 %", none, none, none),
        ("Attribute accuracy, at the bias of validation", none, "75.0 %", none, none, none),
    ]
    untrained = branches_table({"closed": branch, "zero_shot_closed": branch})
    assert (untrained.columns, untrained.rows) == ([], [])


def test_groups_are_read_off_the_columns() -> None:
    columns = ["image_id", "color", "color_best", "color_score", "heel_height", "heel_height_best"]
    assert attribute_groups(columns) == ["color", "heel_height"]


def a_chart(name: str = "loss") -> Chart:
    return Chart(name, "A <title>", "nats", [1, 2, 3], [Series("a & b", [3.0, None, 1.0])])


def test_a_chart_is_the_same_bytes_again_and_well_formed(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    svg = render(a_chart())
    assert svg == render(a_chart())
    write_chart(svg, tmp_path / "loss.svg")
    root = ElementTree.parse(tmp_path / "loss.svg").getroot()
    texts = {"".join(element.itertext()).strip() for element in root.iter() if element.text}
    assert {"A <title>", "a & b", "epoch", "nats"} <= texts
    assert root[0].attrib["fill"] == "#ffffff"


def test_charts_on_one_page_share_no_id() -> None:
    import re

    one, two = (inline(chart, render(chart)) for chart in (a_chart("one"), a_chart("two")))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', one))
    assert references and references <= ids[0]
    assert "<style" not in one and "#1d5fa8" not in one and "var(--series-1)" in one


def test_a_chart_without_points_is_not_drawable() -> None:
    chart = Chart("x", "X", "y", [1], [Series("a", [None])])
    assert not chart.drawable
    assert a_chart().drawable
    assert "a & b goes from 3.000 to 1.000" in a_chart().description


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    data = random.Random(seed).randbytes(size[0] * size[1] * 3)
    return Image.frombytes("RGB", size, data)


def test_thumbnails_shrink_until_they_fit() -> None:
    images = {f"i{n}": noise(n, (200, 120)) for n in range(3)}
    uses = dict.fromkeys(images, 2)
    large = as_data_uris(images, uses)
    assert {thumbnail.width for thumbnail in large.values()} == {200}
    size = sum(2 * len(thumbnail.uri) for thumbnail in large.values())
    small = as_data_uris(images, uses, budget=size // 2)
    assert sum(2 * len(thumbnail.uri) for thumbnail in small.values()) <= size // 2
    first = small["i0"]
    with Image.open(io.BytesIO(base64.b64decode(first.uri.split(",")[1]))) as decoded:
        assert decoded.size == (first.width, first.height)
        assert decoded.width < 200
    with pytest.raises(ValueError, match=r"lower report\.gallery_images"):
        as_data_uris(images, uses, budget=100)


@pytest.mark.parametrize("count", [1, 8, 9])
def test_the_contact_sheet_shows_every_image(tmp_path: Path, count: int) -> None:
    images = [Image.new("RGB", (40, 60), (200, 20, 20)) for _ in range(count)]
    path = tmp_path / "sheet.jpg"
    write_contact_sheet(images, path)
    with Image.open(path) as sheet:
        pixels = sheet.convert("RGB").resize(
            (sheet.width // 2, sheet.height // 2), Image.Resampling.BOX
        )
        red = sum(
            count
            for count, color in pixels.getcolors(pixels.width * pixels.height) or []
            if isinstance(color, tuple) and color[0] > 150 and color[1] < 100
        )
    assert red == pytest.approx(count * 20 * 30, rel=0.15)


def test_a_contact_sheet_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data set is empty"):
        write_contact_sheet([], tmp_path / "sheet.jpg")


def test_versions_are_those_of_the_declared_libraries() -> None:
    import jinja2

    versions = library_versions()
    assert next(iter(versions)) == "Python"
    assert versions["jinja2"] == jinja2.__version__
    assert "pytest" not in versions, "only an extra needs it"


def test_figures_read_with_their_intervals() -> None:
    assert formats.score_between(0.8226, (0.8041, 0.8389)) == "0.823 (0.80 to 0.84)"
    assert formats.percent_between(0.5062, (0.4402, 0.5731)) == "50.6 % (44 to 57)"
    for form in (formats.score_between, formats.percent_between):
        assert form(None, None) == formats.UNKNOWN
    assert formats.score_between(0.5, None) == "0.500"
    metrics = {"a": {"b": 1, "b_interval": [0.5, 1], "c_interval": None, "d_interval": [1]}}
    assert bounds(metrics, "a", "b") == (0.5, 1.0)
    assert bounds(metrics, "a", "c") is bounds(metrics, "x", "b") is None
    with pytest.raises(ReportInputError, match=r"a\.d_interval must be two numbers, found \[1\]"):
        bounds(metrics, "a", "d")


def test_the_table_of_leads_says_what_may_be_chance() -> None:
    def figure(name: str, value: float, low: float, high: float) -> dict[str, Any]:
        return {name: value, f"{name}_interval": [low, high]}

    enhance = {
        "color": {
            **{"accuracy": 0.75, "majority_accuracy": 0.25, "pixel_accuracy": 0.5},
            "minus": {
                "majority": figure("accuracy", 0.5, 0.25, 0.625),
                "pixel": {"accuracy": None, "accuracy_interval": None},
            },
        },
        "material": {"accuracy": None},
    }
    troika = {
        "closed": {"auc": 0.5, "minus": {"zero_shot": figure("auc", 0.05, -0.02, 0.13)}},
        "zero_shot_closed": {"auc": 0.45},
    }
    scores = {
        "base": {"exact_match": 0.75, "bleu": {"mean": 0.0}},
        "finetuned": {
            **{"exact_match": 0.5, "bleu": {"mean": 0.5}, "attributes": {"color": {}}},
            "minus": {
                "base": {
                    **figure("exact_match", -0.25, -0.5, -0.125),
                    "bleu": figure("mean", 0.5, 0.5, 0.5),
                }
            },
        },
    }
    table = leads_table(enhance, troika, scores, {})
    assert [(row.head, *row.cells) for row in table.rows] == [
        ("Color words, over the majority", "0.750", "0.250", "+0.500", "+0.250 to +0.625", "more"),
        ("Troika, closed world, AUC, over zero-shot CLIP", "0.500", "0.450", "+0.050",
         "-0.020 to +0.130", "may be chance"),
        ("Captions, word for word, over untrained", "0.500", "0.750", "-0.250", "-0.500 to -0.125",
         "less"),
        ("Captions, BLEU, over untrained", "0.500", "0.000", "+0.500", "+0.500 to +0.500", "more"),
    ]  # fmt: skip
    assert leads_table({}, {}, {}, {}).rows == []
    assert few_products(None) is few_products(10) is None
    assert "Only 9 products" in (few_products(9) or "")
