"""Labels made by hand: what a folder of CSV files may hold, and how mistakes in it are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from compositional_prompts.labelling.hand_labels import (
    HandLabels,
    LabelsError,
    read_hand_labels,
)

ROOT = Path(__file__).parents[2]
WORDS = {"color": ["black", "Navy Blue", "white"], "material": ["leather", "suede"]}


def read(folder: Path, **files: str) -> HandLabels:
    for name, text in files.items():
        (folder / f"{name}.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    return read_hand_labels(folder, WORDS)


def words_of(labels: HandLabels, group: str) -> dict[str, tuple[str, ...]]:
    return {image_id: answer.words for image_id, answer in labels.answers[group].items()}


def test_rounds_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("notes")
    labels = read(
        tmp_path,
        a="\ufeffimage_id,product_id,color\r\n1.jpg,p,NAVY blue\r\n\r\n2.jpg,p,cannot tell\r\n"
        "3.jpg,p,\r\n",
        b="image_path,color_suggestion,color_probability,color,material\n"
        '"a,b",black,0.5,black,Suede; leather\n4.jpg,,,None of these,\n'
        "1.jpg,black,0.9,navy blue,\n",
        c="color,image_id\nblack,2.jpg\n",
    )
    assert labels.files == 3 and labels
    assert words_of(labels, "color") == {
        "1.jpg": ("Navy Blue",),
        "2.jpg": ("black",),  # one who can tell counts against one who cannot
        "a,b": ("black",),
        "4.jpg": ("none of these",),
    }
    assert words_of(labels, "material") == {"a,b": ("suede", "leather")}
    assert sorted(labels.image_ids) == ["1.jpg", "2.jpg", "4.jpg", "a,b"]


def test_the_documented_file_is_read(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "labelling.md").read_text()
    labels = read(tmp_path, a=document.split("```csv\n")[1].split("```")[0])
    assert list(words_of(labels, "color").values()) == [
        ("black",),
        ("black", "white"),
        ("none of these",),
    ]
    assert list(words_of(labels, "material").values()) == [("leather",), ()]


def test_no_file_and_no_answer_are_no_labels(tmp_path: Path) -> None:
    assert not read(tmp_path)
    assert not read(tmp_path, a="image_id,color\n1.jpg,\n")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        read_hand_labels(tmp_path / "nowhere", WORDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: one column must name the photos.*found nothing"),
        ("color\nblack\n", r"line 1: one column must name the photos"),
        ("image_id,image_path,color\n", r"line 1: one column must name the photos"),
        ("image_id,product_id\n", r"line 1: no column of a group.*color, material"),
        ("image_id,colr\n", r"line 1: unknown column 'colr'"),
        ("image_id,color,color\n", r"line 1: column 'color' stands there twice"),
        ("image_id,color\n1,black\n2,blak\n", r"line 3: 'blak' is no word.*closest 'black'"),
        ("image_id,color\n1,black;none of these\n", r"line 2: 'none of these' stands alone"),
        ("image_id,color\n1\n", r"line 2: 1 cells"),
        ("image_id,color\n1,black\n1,2,black\n", r"line 3: 3 cells"),
        ("image_id,color\n ,black\n", r"line 2: the photo is not named"),
        ('image_id,color\n"1,black\n', r"line 2: not CSV"),
        ("image_id,color\n1,black\n\udcff,black\n", r"line 3: byte 0xff is not UTF-8"),
        (
            "image_id,color\n1,black\n1,navy blue\n",
            r"line 3: '1' is 'Navy Blue' in 'color', and 'black' in .*a.csv, line 2: remove",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelsError, match=rf"a\.csv, {message}"):
        read(tmp_path, a=text)


def test_what_is_no_csv_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "labels.xlsx").write_bytes(b"PK")
    with pytest.raises(LabelsError, match=r"labels\.xlsx: only CSV files count"):
        read(tmp_path)


def test_a_word_that_means_no_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="'color' has the word 'Cannot tell'"):
        read_hand_labels(tmp_path, {"color": ["black", "Cannot tell"]})


def test_groups_and_words_that_a_spreadsheet_would_run_are_read_back(tmp_path: Path) -> None:
    table = "image_id,'=sum\n'-1,'-a;b\n2,b\n"
    (tmp_path / "a.csv").write_text(table)
    labels = read_hand_labels(tmp_path, {"=sum": ["-a", "b"]})
    assert words_of(labels, "=sum") == {"-1": ("-a", "b"), "2": ("b",)}
