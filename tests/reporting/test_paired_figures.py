"""Figures of two revisions, paired on the images that both were tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.tables import write_table
from compositional_prompts.reporting.comparing.comparison_page import forest
from compositional_prompts.reporting.comparing.paired_figures import (
    FigureTables,
    PairedFigure,
    PairedFigures,
    as_text,
    paired_figures,
)
from compositional_prompts.results.bootstrap import Bootstrap, Interval
from compositional_prompts.scoring.score_table import SCORES
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS

TABLES = FigureTables(
    splits=Path("splits.parquet"),
    prompts=Path("enhanced.parquet"),
    original=Path("original.parquet"),
    scores=Path("scores.parquet"),
    truth=Path("truth.parquet"),
)
NAMES = ("before", "after")
FORM = "A photo of Canvas_Boots with {} color"
IMAGES = 60


class Revision:
    """Sixty images of twenty products, the first twenty of them for training; true is red."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        random = np.random.default_rng(seed)
        self.ids = [f"i{number:02d}" for number in range(IMAGES)]
        self.split = ["train"] * 20 + ["test"] * (IMAGES - 20)
        self.word = random.choice(["red", "blue"], IMAGES).tolist()
        self.said = random.choice(["red", "blue"], IMAGES).tolist()
        self.bleu = random.random(IMAGES).tolist()
        self.products = IMAGES // 3
        self.groups = ["color"]
        self.seen = [True, False] * (IMAGES // 2)
        self.hit = (random.random(IMAGES) < 0.6).tolist()
        self.margin = random.normal(size=IMAGES).tolist()

    def product(self, number: int) -> str:
        return f"p{number % self.products}"

    def judged(self, number: int) -> list[dict[str, Any]]:
        return [
            {
                "scorer": scorer,
                "world": "closed",
                "seen": self.seen[number],
                "hit": self.hit[number] and scorer == "troika",
                "margin": self.margin[number],
                "attribute_hit": self.hit[number],
                "object_hit": True,
            }
            for scorer in ("troika", "zero_shot")
        ]

    def original(self, number: int, image_id: str) -> dict[str, Any]:
        tested = self.split[number] == "test"
        return {
            "image_id": image_id,
            **{"attribute": "Canvas", "object": "Boots", "original_prompt": "a"},
            **{"probability": 0.5, "top_attributes": [], "top_objects": []},
            "top_probabilities": [],
            "judged": self.judged(number) if tested else None,
        }

    def write(self, *, scores: bool = True, splits: bool = True) -> Path:
        rows = list(enumerate(self.ids))
        tables: dict[Path, tuple[list[dict[str, Any]], pa.Schema]] = {
            TABLES.prompts: (
                [self._prompt(number, image_id) for number, image_id in rows],
                enhanced_prompts_schema(self.groups),
            ),
            TABLES.truth: (
                [{"image_id": one, "group": "color", "word": "Red"} for one in self.ids[:-1]],
                TRUTH,
            ),
        }
        tables[TABLES.original] = (
            [self.original(number, image_id) for number, image_id in rows],
            ORIGINAL_PROMPTS,
        )
        if splits:
            tables[TABLES.splits] = (
                [
                    {
                        "image_id": image_id,
                        "product_id": self.product(number),
                        "attribute": "Canvas",
                        "object": "Boots",
                        "caption_split": self.split[number],
                    }
                    for number, image_id in rows
                ],
                SPLITS,
            )
        if scores:
            tested = [row for row in rows if self.split[row[0]] == "test"]
            tables[TABLES.scores] = [self._score(*row) for row in tested], SCORES
        for path, (made, schema) in tables.items():
            full = [dict.fromkeys(schema.names) | row for row in made]
            write_table(pa.Table.from_pylist(full, schema), self.folder / path, schema)
        return self.folder

    def _prompt(self, number: int, image_id: str) -> dict[str, Any]:
        columns: dict[str, Any] = {
            "image_id": image_id,
            **{"attribute": "Canvas", "object": "Boots", "original_prompt": "a"},
            "enhanced_prompt": FORM.format(self.word[number]),
        }
        for group in self.groups:
            columns |= {group: self.word[number], f"{group}_best": "red", f"{group}_scores": [0.5]}
            columns |= {f"{group}_score": 0.5, f"{group}_margin": 0.5}
        return columns

    def _score(self, number: int, image_id: str) -> dict[str, Any]:
        numbers = [one.name for one in SCORES if one.type == pa.float64()]
        return dict.fromkeys(numbers, 0.5) | {
            "image_id": image_id,
            "captioner": "finetuned",
            "caption": FORM.format(self.said[number]),
            "reference": FORM.format(self.word[number]),
            "bleu": self.bleu[number],
            "bert_score": None,
            "exact_match": self.said[number] == self.word[number],
            "clip_preference": "tie",
        }


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Revision, Revision]:
    return Revision(tmp_path / "one", 1), Revision(tmp_path / "two", 2)


def compared(first: Path, second: Path) -> dict[str, PairedFigure]:
    return {row.name: row for row in paired_figures(first, second, TABLES, NAMES).rows}


def test_differences_are_those_of_the_same_test_images(pair: tuple[Revision, Revision]) -> None:
    first, second = pair
    found = compared(first.write(), second.write())
    numbers = [int(product[1:]) for product in map(second.product, range(20, IMAGES))]
    codes = np.unique(numbers, return_inverse=True)[1]
    order = {number: place for place, number in enumerate(dict.fromkeys(codes.tolist()))}
    bootstrap = Bootstrap([order[code] for code in codes.tolist()])
    bleu = bootstrap.difference(second.bleu[20:], first.bleu[20:])
    assert found["captions, BLEU"].difference.value == pytest.approx(bleu.value)
    assert found["captions, BLEU"].difference.bounds == pytest.approx(bleu.bounds)
    assert found["captions, BLEU"].second == pytest.approx(np.mean(second.bleu[20:]))
    # Nothing is known of the last image's color.
    known = [True] * 39 + [False]
    for name, words in (
        ("words, color", [one.word for one in pair]),
        ("captions, true color", [one.said for one in pair]),
    ):
        right = [[word == "red" for word in one[20:]] for one in words]
        expected = bootstrap.difference(right[1], right[0], known)
        assert found[name].difference.bounds == pytest.approx(expected.bounds), name
    same = found["captions, true object"]
    assert (same.first, same.second, same.difference.bounds) == (1.0, 1.0, [0.0, 0.0])
    assert "captions, BERTScore" not in found, "it is null in both"


def test_pairs_are_compared_by_how_they_were_judged(pair: tuple[Revision, Revision]) -> None:
    """AUC as a share of twos of an image of a seen and one of an unseen pair, both right."""
    first, second = pair
    found = compared(first.write(), second.write())

    def auc(one: Revision) -> float:
        rows = range(20, IMAGES)
        seen = [row for row in rows if one.seen[row]]
        unseen = [row for row in rows if not one.seen[row]]
        right = sum(
            one.hit[a] and one.hit[b] and one.margin[a] > one.margin[b]
            for a in seen
            for b in unseen
        )
        return float(right / len(seen) / len(unseen))

    row = found["pairs, AUC"]
    assert [row.first, row.second] == pytest.approx([auc(first), auc(second)])
    difference, bounds = row.difference.value, row.difference.bounds
    assert difference is not None and bounds is not None
    assert difference == pytest.approx(auc(second) - auc(first))
    assert bounds[0] < difference < bounds[1]
    assert found["pairs, object"].difference.bounds == [0.0, 0.0]
    assert found["pairs, harmonic mean"].first <= 1
    second.seen[30] = not second.seen[30]
    said = paired_figures(first.folder, second.write(), TABLES, NAMES).notes
    assert any("Pairs of 1 images are seen in one revision alone" in note for note in said)
    first.judged = lambda _: None  # type: ignore[method-assign,assignment,return-value]
    said = paired_figures(first.write(), second.folder, TABLES, NAMES).notes
    assert any("No world of pairs was measured in both" in note for note in said)
    path = first.folder / TABLES.original
    pq.write_table(pq.read_table(path).drop(["judged"]), path.with_name("older"))
    path.unlink()
    path.with_name("older").rename(path)
    said = paired_figures(first.folder, second.folder, TABLES, NAMES).notes
    assert any("original.parquet of before does not say how" in note for note in said)


def test_what_only_one_revision_has_is_said(pair: tuple[Revision, Revision]) -> None:
    first, second = pair
    first.groups, second.groups = ["color", "sole"], ["color", "toe"]
    first.split[19], second.split[59] = "test", "val"
    found = paired_figures(first.write(), second.write(), TABLES, NAMES)
    assert found.images == 39
    assert any("2 images are test images of before alone and 0 of after" in n for n in found.notes)
    assert "Only before has the group sole." in found.notes
    assert "Only after has the group toe." in found.notes
    assert "words, sole" not in {row.name for row in found.rows}


def test_a_revision_without_scores_or_splits_is_compared_by_its_words(
    pair: tuple[Revision, Revision],
) -> None:
    first, second = pair
    found = paired_figures(first.write(scores=False, splits=False), second.write(), TABLES, NAMES)
    assert [row.name for row in found.rows if "pairs" not in row.name] == ["words, color"]
    said = " ".join(found.notes)
    assert "before has no splits.parquet" in said and "before has no scores.parquet" in said


def test_images_that_one_lacks_do_not_count(pair: tuple[Revision, Revision]) -> None:
    first, second = pair
    first.ids[30] = "another"
    found = paired_figures(first.write(splits=False), second.write(), TABLES, NAMES)
    assert any("enhanced.parquet of before lacks 1 of these images" in note for note in found.notes)
    assert any("scores.parquet of before lacks 1 of these images" in note for note in found.notes)
    (bleu,) = [row for row in found.rows if row.name == "captions, BLEU"]
    kept = [number for number in range(20, IMAGES) if number != 30]
    assert bleu.first == pytest.approx(np.mean([first.bleu[number] for number in kept]))


def test_few_products_are_said_and_no_test_images_too(pair: tuple[Revision, Revision]) -> None:
    first, second = pair
    first.products = second.products = 4
    found = paired_figures(first.write(), second.write(), TABLES, NAMES)
    assert found.products == 4
    assert any("only 4 products" in note for note in found.notes)
    second.split = ["train"] * IMAGES
    second.write()
    found = paired_figures(first.folder, second.folder, TABLES, NAMES)
    assert found.images == 0
    assert {row.name.split(",")[0] for row in found.rows} <= {"pairs"}
    assert as_text(found, NAMES).startswith("No figure is known")


def test_the_text_fits_a_screen_and_the_drawing_has_one_scale() -> None:
    rows = [
        PairedFigure("words, color", 0.5, 0.75, Interval(0.25, 0.125, 0.375, 12)),
        PairedFigure("captions, CIDEr-D", 5.0, 4.0, Interval(-1.0, -2.0, 0.5, 12)),
        PairedFigure("captions, true object", 1.0, 1.0, Interval(0.0, 0.0, 0.0, 12)),
        PairedFigure("words, sole", 0.5, 0.25, Interval(-0.25, None, None, 1)),
    ]
    figures = PairedFigures(40, 12, rows, ["A note."])
    lines = as_text(figures, NAMES).splitlines()
    assert lines[0].startswith("On the same 40 test images of 12 products")
    assert lines[2].split() == [
        *("words,", "color", "0.500", "0.750", "+0.250", "+0.125", "to", "+0.375", "better")
    ]
    assert lines[3].endswith("may be chance") and lines[4].endswith("the same")
    assert lines[5].endswith("one product") and lines[6] == "A note."
    assert max(map(len, lines)) <= 100
    drawn = forest(figures)
    assert drawn[0].high == pytest.approx(98) and drawn[0].kind == "right"
    assert drawn[1].low == pytest.approx(50 - 48 * 0.2 / 0.375)
    assert drawn[2].middle == 50 and drawn[3].low is None
