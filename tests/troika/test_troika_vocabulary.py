"""Vocabularies, their closed worlds, and the labels that must lie in them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from compositional_prompts.catalog.splitting.split_tables import PAIRS, SPLITS
from compositional_prompts.files.tables import write_table
from compositional_prompts.prompt.pair import spoken
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary, labelled_images

ROWS = [
    ("Canvas", "Shoes.Flats", "train", True, 4),
    ("Canvas", "Slippers", "val", False, 2),
    ("Wool", "Shoes.Flats", "test", False, 1),
    ("Wool", "Slippers", "train", True, 3),
]


def write_pairs(path: Path, rows: list[tuple[str, str, str, bool, int]]) -> Path:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    write_table(
        pa.table([pa.array(c, f.type) for c, f in zip(columns, PAIRS, strict=True)], schema=PAIRS),
        path,
        PAIRS,
    )
    return path


def write_splits(path: Path, rows: list[tuple[str, str | None, str | None, str | None]]) -> Path:
    table = pa.table(
        {
            "image_id": [row[0] for row in rows],
            "product_id": [row[0] for row in rows],
            "attribute": pa.array([row[1] for row in rows], pa.string()),
            "object": pa.array([row[2] for row in rows], pa.string()),
            "caption_split": ["train"] * len(rows),
            "pair_split": pa.array([row[3] for row in rows], pa.string()),
            "pair_seen": pa.array([None] * len(rows), pa.bool_()),
        },
        schema=SPLITS,
    )
    write_table(table, path, SPLITS)
    return path


def test_worlds_hold_seen_pairs_and_the_unseen_ones_of_their_split(tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(write_pairs(tmp_path / "pairs.parquet", ROWS))
    assert vocabulary.attributes == ("Canvas", "Wool")
    assert vocabulary.objects == ("Shoes.Flats", "Slippers")
    assert vocabulary.pair_indices.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert vocabulary.seen_columns.tolist() == [0, 3]
    assert vocabulary.world("val").tolist() == [0, 1, 3]
    assert vocabulary.world("test").tolist() == [0, 2, 3]
    assert Vocabulary.from_json(vocabulary.as_json(), tmp_path) == vocabulary


def test_names_are_spoken_in_lower_case_with_spaces() -> None:
    assert spoken("Shoes.Sneakers.and.Athletic.Shoes") == "shoes sneakers and athletic shoes"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no pair"),
        ([ROWS[0], ROWS[0]], "Canvas_Shoes.Flats twice"),
        ([("...", "Slippers", "train", True, 1)], r"'\.\.\.' has no words"),
    ],
)
def test_bad_pair_tables_are_refused(
    tmp_path: Path, rows: list[tuple[str, str, str, bool, int]], message: str
) -> None:
    path = write_pairs(tmp_path / "pairs.parquet", rows)
    with pytest.raises(ValueError, match=message):
        Vocabulary.read(path)


def test_labels_are_those_of_the_split(tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(write_pairs(tmp_path / "pairs.parquet", ROWS))
    splits = write_splits(
        tmp_path / "splits.parquet",
        [
            ("a", "Wool", "Slippers", "train"),
            ("b", None, None, None),
            ("c", "Canvas", "Slippers", "val"),
            ("d", "Canvas", "Shoes.Flats", "train"),
        ],
    )
    train = labelled_images(splits, vocabulary, "train")
    assert (train.image_ids, train.pairs.tolist()) == (["a", "d"], [3, 0])
    assert labelled_images(splits, vocabulary, "val").pairs.tolist() == [1]
    assert len(labelled_images(splits, vocabulary, "test")) == 0


def test_a_pair_of_another_split_is_refused(tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(write_pairs(tmp_path / "pairs.parquet", ROWS))
    splits = write_splits(tmp_path / "splits.parquet", [("e", "Wool", "Shoes.Flats", "train")])
    with pytest.raises(
        ValueError, match=r"image 'e' of split train has the pair Wool_Shoes\.Flats"
    ):
        labelled_images(splits, vocabulary, "train")
