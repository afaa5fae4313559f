"""What README and documents print beside commands: parameters, tables of labels, Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from compositional_miniature import photo
from printed_commands import ROOT, Block, all_blocks

from compositional_prompts.datasets.ingestion import ingest
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.project.presets import lay_preset
from compositional_prompts.project.whole_params import read_all_params

BLOCKS = all_blocks()
RUN_BY = {
    ("docs/architecture.md", "python"): "tests/datasets/test_every_dataset.py",
    ("docs/architecture.md", "csv"): "tests/datasets/test_group_recipe.py",
    ("docs/labelling.md", "csv"): "tests/labelling/test_hand_labels.py",
    ("docs/library.md", "python"): "tests/deployment/test_library.py",
    ("README.md", "csv"): "tests/documentation/test_printed_examples.py",
}
"""Who runs the examples of a document in a language."""


def place(block: Block) -> str:
    return f"{block.document}:{block.line}"


def parameters() -> list[Block]:
    """YAML but that of a data set which a recipe of docs/architecture.md adds first."""
    found = [block for block in BLOCKS if block.language == "yaml"]
    return [block for block in found if "dataset: squares" not in block.text]


@pytest.mark.parametrize("block", parameters(), ids=place)
def test_parameters_are_valid(block: Block, tmp_path: Path) -> None:
    shutil.copy(ROOT / "presets" / "sample.yaml", tmp_path)
    (tmp_path / "printed.yaml").write_text(block.text)
    params = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    assert lay_preset("printed", params, tmp_path)
    read_all_params(params)


@pytest.mark.parametrize("language", ["csv", "python"])
def test_examples_are_run_by_a_test(language: str) -> None:
    documents = {block.document for block in BLOCKS if block.language == language}
    assert documents == {document for document, of in RUN_BY if of == language}
    for document in documents:
        path = ROOT / RUN_BY[document, language]
        assert Path(document).name in path.read_text()


def test_the_readme_s_own_photos_make_a_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    readme = [block for block in BLOCKS if block.document == "README.md"]
    (labels,) = (block for block in readme if block.language == "csv")
    (chosen,) = (block for block in readme if "labels: photos.csv" in block.text)
    shutil.copy(ROOT / "presets" / "sample.yaml", tmp_path)
    Path("printed.yaml").write_text(f"{chosen.text}\nbase:\n  workers: 1\n")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    lay_preset("printed", Path("params.yaml"), Path())
    Path("photos.csv").write_text(labels.text)
    rows = labels.text.splitlines()[1:]
    for number, row in enumerate(rows):
        path = Path("photos", row.split(",")[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
    params, base = read_params(Path("params.yaml"), Download)
    places = (Path("catalog"), Path("truth.parquet"), Path("rejected.parquet"))
    measured, _ = ingest(params.chosen.select(base), *places, params, base)
    assert measured["images"] == measured["labelled"] == len(rows)
