"""The pretraining corpus: titles of training images, and of no other."""

from pathlib import Path

import pyarrow as pa
import pytest

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.corpus import write_corpus, write_empty_corpus
from compositional_prompts.catalog.splitting.corpus_table import CORPUS
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.files.tables import read_table

ROWS = [  # title, caption split, pair split
    ("a shoe", "train", "train"),
    ("a boot", "train", None),
    (None, "train", "train"),
    ("", "train", "train"),
    ("held out", "val", "train"),
    ("held out", "test", "test"),
    ("held out", "train", "val"),
    ("held out", "train", "test"),
    ("held out", "test", None),
    ("a sandal", "train", "train"),
]


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    with open_shards(tmp_path / "catalog", 1) as shards:
        for number, (title, *_) in enumerate(ROWS):
            shards.write(
                CatalogRow(f"i{number}", f"p{number}", b"photo %d" % number, "x", title=title)
            )
    return tmp_path / "catalog"


def splits(order: list[int]) -> pa.Table:
    rows = [
        {
            "image_id": f"i{number}",
            "product_id": f"p{number}",
            "caption_split": ROWS[number][1],
            "pair_split": ROWS[number][2],
        }
        for number in order
    ]
    return pa.Table.from_pylist(rows, SPLITS)


@pytest.mark.parametrize("order", [list(range(10)), list(reversed(range(10)))])
def test_only_images_that_both_splits_train_on(
    tmp_path: Path, catalog: Path, order: list[int]
) -> None:
    path = tmp_path / "corpus.parquet"
    assert write_corpus(catalog, splits(order), path) == 3
    rows = read_table(path, CORPUS).to_pylist()
    assert [(row["image"]["bytes"], row["caption"]) for row in rows] == [
        (b"photo 0", "a shoe"),
        (b"photo 1", "a boot"),
        (b"photo 9", "a sandal"),
    ]


def test_a_corpus_without_rows_is_a_valid_file(tmp_path: Path, catalog: Path) -> None:
    assert write_corpus(catalog, splits([4, 5]), tmp_path / "corpus.parquet") == 0
    write_empty_corpus(tmp_path / "empty.parquet")
    for name in ("corpus", "empty"):
        table = read_table(tmp_path / f"{name}.parquet", CORPUS)
        assert table.num_rows == 0
        assert table.schema == CORPUS
