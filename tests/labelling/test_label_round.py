"""The command ``label``: what it asks for, and what comes back from its page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelling_project import Shoe, write_labelling_project

from compositional_prompts.__main__ import main
from compositional_prompts.labelling import candidates

SHOES = [
    *(Shoe(f"train/{n}.jpg", product_id=f"p{n // 2}") for n in range(12)),
    Shoe("known.jpg", truth={"color": "black"}),
    *(Shoe(f"val/{n}.jpg", "val") for n in range(4)),
    *(Shoe(f"=test/{n}.jpg", "test") for n in range(4)),
]

Label = Callable[..., tuple[int, str, str]]


@pytest.fixture
def label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Label:
    write_labelling_project(tmp_path, SHOES)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["compositional-prompts", "label", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def listed(name: str = "label.csv") -> list[dict[str, str]]:
    with Path(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def asked(name: str = "label.html") -> dict[str, Any]:
    text = Path(name).read_text(encoding="utf-8")
    document = json.loads(text.split('id="asked">')[1].split("</script>")[0])
    assert isinstance(document, dict)
    return document


def test_training_photos_are_asked_for_and_what_was_answered_is_not(label: Label) -> None:
    status, said, _ = label("color", "--photos", "4")
    assert status == 0
    assert "color: 4 photos to label, 8 more have no known word" in said
    first = listed()
    assert [*first[0]] == [
        *("image_id", "product_id", "color", "color_suggestion", "color_probability")
    ]
    assert len({row["product_id"] for row in first}) == 4
    assert all(row["image_id"].startswith("train/") and not row["color"] for row in first)
    assert all(1 / 3 <= float(row["color_probability"]) <= 1 for row in first)
    label("color", "--photos", "4")
    assert listed() == first, "the same by the same seed"
    page = asked()
    assert [photo["id"] for photo in page["photos"]] == [row["image_id"] for row in first]
    assert page["file"] in said and page["file"].startswith("labels-color-")
    label("color", "--photos", "4", "--seed", "8")
    assert listed() != first

    answers = [row | {"color": "white"} for row in first[:3]]
    answers += [first[3] | {"color": "cannot tell"}]
    with Path("labels/1.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, first[0].keys())
        writer.writeheader()
        writer.writerows(answers)
    _, said, _ = label("color", "--photos", "20")
    assert "color: 8 photos to label, 0 more" in said
    assert not {row["image_id"] for row in listed()} & {row["image_id"] for row in first}
    label("material", "--photos", "20")
    assert len(listed()) == 13, "another group was not answered"


def test_groups_share_the_photos(label: Label) -> None:
    _, said, _ = label("--photos", "5", "--page", "out/all.html")
    assert "color: 3 photos" in said and "material: 2 photos" in said
    page = asked("out/all.html")
    assert [question["group"] for question in page["questions"]] == [0, 0, 0, 1, 1]
    assert len(listed("out/all.csv")) == len(page["photos"]) <= 5


def test_photos_to_measure_by_are_drawn_at_random_without_suggestions(label: Label) -> None:
    label("color", "--for", "measuring", "--photos", "5")
    first = listed()
    assert not any(row["color_suggestion"] for row in first)
    assert all(question["suggestion"] is None for question in asked()["questions"])
    label("color", "--for", "measuring", "--photos", "20")
    drawn = listed()
    assert drawn[:5] == first, "more are a longer part of one random order"
    ids = {row["image_id"] for row in drawn}
    assert ids == {f"val/{n}.jpg" for n in range(4)} | {f"'=test/{n}.jpg" for n in range(4)}


def test_of_many_candidates_some_are_looked_at(
    label: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compositional_prompts.labelling.label_round.MOST", 5)
    _, said, _ = label("color", "--photos", "9")
    assert "color: 5 photos to label, 7 more" in said
    assert candidates.MOST == 50_000


def test_what_cannot_be_done_is_said(label: Label) -> None:
    assert "there is no group 'colour'" in label("colour")[2]
    assert "name a file to write" in label("--page", "labels")[2]
    Path("labels/1.csv").write_text("image_id,color\nknown.jpg,sky\n")
    assert "labels/1.csv, line 2: 'sky' is no word" in label("color")[2]
    ids = "".join(f"train/{n}.jpg,cannot tell\n" for n in range(12))
    Path("labels/1.csv").write_text(f"image_id,color\n{ids}")
    status, _, said = label("color")
    assert status == 2 and "no photo to label: every image of train" in said
    Path("data/truth.parquet").unlink()
    assert "Run `dvc repro truth`" in label("color")[2]
    assert not Path("label.html").exists()
