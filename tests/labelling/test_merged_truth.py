"""The truth of a data set and of people, as one table."""

from __future__ import annotations

import json
import logging
import runpy
from pathlib import Path

import pytest
from labelling_project import ROOT, WORDS, Shoe, write_catalog, write_truth

from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.files.tables import read_table
from compositional_prompts.labelling.merged_truth import merge_truth

SHOES = [
    Shoe("b", truth={"material": "leather;suede", "color": "black"}),
    Shoe("a", truth={"color": "White", "closure": "laces"}),
    Shoe("c"),
    Shoe("d"),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_catalog(tmp_path / "catalog", SHOES)
    write_truth(tmp_path / "own.parquet", SHOES)
    (tmp_path / "labels").mkdir()
    return tmp_path


def merged(root: Path) -> tuple[dict[str, object], list[tuple[str, str, str]]]:
    paths = (root / name for name in ("own.parquet", "labels", "catalog", "truth.parquet"))
    metrics, images = merge_truth(*paths, WORDS)
    assert images == len(SHOES)
    rows = read_table(root / "truth.parquet", TRUTH).to_pylist()
    return metrics, [(row["image_id"], row["group"], row["word"]) for row in rows]


def test_a_label_made_by_hand_counts_first(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    (project / "labels" / "1.csv").write_text(
        "image_id,color,material\nb,navy blue,\nc,none of these,leather\na,white,\nlost,black,\n"
        "d,cannot tell,\n"
    )
    (project / "labels" / "2.csv").write_text("image_id,material\nb,cannot tell\n")
    with caplog.at_level(logging.INFO):
        metrics, rows = merged(project)
    assert rows == [
        ("b", "material", "leather"),
        ("b", "material", "suede"),
        ("b", "color", "navy blue"),
        ("a", "color", "white"),
        ("a", "closure", "laces"),
        ("c", "material", "leather"),
        ("c", "color", "none of these"),
    ]
    color = {"images": 4, "none_of_these": 1, "cannot_tell": 1, "as_the_data_set": 1, "replaced": 1}
    material = {
        "images": 2, "none_of_these": 0, "cannot_tell": 1, "as_the_data_set": 0, "replaced": 0
    }  # fmt: skip
    assert metrics == {
        "files": 2,
        "unknown_images": 1,
        "groups": {"color": color, "material": material},
    }
    assert "1 of the 5 images that" in caplog.text and "'lost'" in caplog.text


def test_without_labels_nothing_changes(project: Path) -> None:
    metrics, _ = merged(project)
    assert (project / "truth.parquet").read_bytes() == (project / "own.parquet").read_bytes()
    assert metrics["files"] == 0 and metrics["unknown_images"] == 0


@pytest.mark.parametrize("place", [0, 40])
def test_a_damaged_table_is_not_copied(project: Path, place: int) -> None:
    own = project / "own.parquet"
    content = bytearray(own.read_bytes())
    content[place] ^= 1
    own.write_bytes(content)
    with pytest.raises(DamagedOutputError, match=r"own\.parquet is damaged"):
        merged(project)
    assert not (project / "truth.parquet").exists()


def test_the_stage_reads_the_vocabulary(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (project / "labels" / "1.csv").write_text("image_id,color\nc,red\nd,sky\n")
    arguments = "--own own.parquet --labels labels --catalog catalog --truth t --metrics m.json"
    words = [*arguments.split(), "--params", str(ROOT / "params.yaml")]
    monkeypatch.setattr("sys.argv", ["truth.py", *words])

    def run() -> None:
        runpy.run_path(str(ROOT / "stages" / "truth.py"), run_name="__main__")

    with pytest.raises(SystemExit) as ended:
        run()
    assert "labels/1.csv, line 3: 'sky' is no word of the group 'color'" in str(ended.value.code)
    assert not (project / "t").exists()
    (project / "labels" / "1.csv").write_text("image_id,color\nc,red\n")
    run()
    assert json.loads((project / "m.json").read_text())["groups"]["color"]["images"] == 1
