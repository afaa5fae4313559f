"""``compositional-prompts export-data``: every form, read back by its own ecosystem's reader."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from exported_project import (
    PHOTOS,
    Photo,
    expected_rows,
    lock_recommendation,
    picture,
    read_json,
    write_exported_project,
)
from PIL import Image
from pycocotools.coco import COCO
from trained_project import Run

from compositional_prompts.deployment.dataset_export import data_export
from compositional_prompts.deployment.dataset_export.earlier_rows import MANIFEST
from compositional_prompts.deployment.dataset_export.exported_rows import ExportColumns
from compositional_prompts.deployment.dataset_export.forms.hub_parquet import HubParquet
from compositional_prompts.deployment.dataset_export.forms.webdataset_tars import WebdatasetTars
from compositional_prompts.deployment.dataset_export.photo_files import photo_file, photo_stem
from compositional_prompts.files.records.spreadsheet_cells import plain_text

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")

FORMS = ("hub", "jsonl", "csv", "coco", "webdataset")
FOLDERS = {"train": "train", "val": "validation", "test": "test"}

Rows = dict[str, dict[str, Any]]
Read = tuple[dict[str, Any], Image.Image | None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    write_exported_project(root)
    return root


@pytest.fixture
def exported(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project as the working directory."""
    copy = tmp_path / "own"
    shutil.copytree(written, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return copy


def as_parsed(text: str, like: Any) -> Any:
    return float(text) if isinstance(like, float) else text


def read_hub(folder: Path) -> Iterator[Read]:
    for split in datasets.load_dataset(str(folder)).values():
        for row in split:
            yield row, row.pop("image")


def read_jsonl(folder: Path) -> Iterator[Read]:
    for row in datasets.load_dataset(str(folder), split="train"):
        yield row, row.pop("image")
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    assert all((folder / json.loads(line)["file_name"]).is_file() for line in lines)


def read_csv(folder: Path) -> Iterator[Read]:
    numbers = [name for name in pl.read_csv(folder / "captions.csv").columns if "confid" in name]
    rows = pl.read_csv(folder / "captions.csv", infer_schema=False)
    for row in rows.with_columns(pl.col(numbers).cast(pl.Float64)).iter_rows(named=True):
        yield {k: plain_text(v) if isinstance(v, str) else v for k, v in row.items()}, None


def read_coco(folder: Path) -> Iterator[Read]:
    for path in (folder / "annotations").iterdir():
        coco = COCO(path)
        for annotation in coco.loadAnns(coco.getAnnIds()):
            (image,) = coco.loadImgs(annotation.pop("image_id"))
            row = {"image_id": image["source_id"]} | annotation
            row |= {name: image[name] for name in ("product_id", "split", "title")}
            del row["id"]
            photo = Image.open(folder / FOLDERS[image["split"]] / image["file_name"])
            assert photo.size == (image["width"], image["height"])
            yield row, photo


def read_webdataset(folder: Path) -> Iterator[Read]:
    tars = sorted(map(str, folder.glob("*.tar")))
    for sample in webdataset.WebDataset(tars, shardshuffle=False).decode("pil"):
        assert sample["txt"] == sample["json"]["caption"]
        photos = [value for value in sample.values() if isinstance(value, Image.Image)]
        yield sample["json"], photos[0]


READERS: Mapping[str, Callable[[Path], Iterator[Read]]] = {
    "hub": read_hub,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "coco": read_coco,
    "webdataset": read_webdataset,
}


def rows_of(folder: Path, form: str) -> Rows:
    """By image_id, with the photos held against what the catalog was made of."""
    found: Rows = {}
    numbers = {photo.image_id: number for number, photo in enumerate(PHOTOS)}
    for row, photo in READERS[form](folder):
        assert row["image_id"] not in found
        found[row["image_id"]] = row
        if form == "csv":
            assert photo is None
            continue
        number = numbers[row["image_id"]]
        own = Image.open(io.BytesIO(picture(number, PHOTOS[number].kind))).convert("RGB")
        assert photo is not None
        np.testing.assert_array_equal(np.asarray(photo.convert("RGB")), np.asarray(own))
    return found


def assert_rows(found: Rows, expected: Rows) -> None:
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        assert list(found[name]) == list(row) or set(found[name]) == set(row)
        for column, value in row.items():
            if isinstance(value, float):
                assert found[name][column] == pytest.approx(value, abs=6e-5), (name, column)
            else:
                assert found[name][column] == value, (name, column)


def files_of(folder: Path) -> dict[Path, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_rows_back(
    form: str, exported: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run("export-data", "shop", "--form", form)
    assert status == 0, err
    expected = expected_rows("readable" if form == "csv" else "recommended")
    assert_rows(rows_of(exported / "shop", form), expected)
    assert out == (
        "shop: 5 rows (train 2, val 1, test 2); see its README.md\n"
        "  confidences are probabilities: pair uncalibrated, color calibrated, "
        "material uncalibrated\n"
    )
    assert not list(exported.glob(".shop*"))
    # What its card tells people to do gives captions too, and nothing of this machine is in it.
    card = (exported / "shop" / "README.md").read_text()
    capsys.readouterr()
    exec(compile(card.split("```python\n")[1].split("```")[0], "card", "exec"), {})
    said = capsys.readouterr().out
    assert any(row["caption"] in said for row in expected.values())
    assert str(exported) not in card
    # Equal tables give equal bytes.
    assert run("export-data", "again/shop", "--form", form)[0] == 0
    assert files_of(exported / "again" / "shop") == files_of(exported / "shop")


@pytest.mark.parametrize("captions", ["enhanced", "finetuned", "readable"])
def test_the_caption_is_the_text_asked_for(captions: str, exported: Path, run: Run) -> None:
    if captions == "enhanced":  # nothing of BLIP-2 is needed
        (exported / "data" / "recommended.parquet").unlink()
        (exported / "metrics" / "recommend.json").unlink()
    status, out, err = run("export-data", "out", "--form", "csv", "--captions", captions)
    assert status == 0, err
    assert_rows(rows_of(exported / "out", "csv"), expected_rows(captions))
    if captions == "finetuned":
        assert "left out: 3 without a caption" in out
        assert "1 of them with a caption off the template" in out


def test_objects_alone_have_no_attribute(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [
        Photo("a", label=(None, "Boots"), pair=(None, "Boots")),
        Photo(
            "b",
            pair=(None, "Boots"),
            caption="A photo of Sandals with red color and an unspecified material",
            recommended=True,
            said=(None, "Sandals", "red", None),
        ),
    ]
    write_exported_project(tmp_path, photos)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for form in ("csv", "hub"):
        assert run("export-data", form, "--form", form, "--captions", "recommended")[0] == 0
        found = {row["image_id"]: row for row, _ in READERS[form](tmp_path / form)}
        assert_rows(found, expected_rows("recommended", photos))
    assert found["b"]["object"] == "Sandals"


def test_a_cell_that_a_spreadsheet_would_run_is_text(exported: Path, run: Run) -> None:
    assert run("export-data", "out", "--form", "csv")[0] == 0
    with (exported / "out" / "captions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows][1] == "'=1+1"
    assert {row["product_id"] for row in rows} == {f"'@{number}" for number in range(5)}
    assert [row["title"] for row in rows] == ["Boots, white", "", "'-5 %", "", "two\nlines"]


def test_splits_and_confidence_leave_rows_out_and_say_how_many(exported: Path, run: Run) -> None:
    arguments = ("--split", "val", "--split", "test", "--min-confidence", "pair=0.5")
    expected = expected_rows()
    sure = {name: row["confidence"] for name, row in expected.items() if row["split"] != "train"}
    status, out, _ = run("export-data", "a", "--form", "jsonl", *arguments)
    assert status == 0
    assert rows_of(exported / "a", "jsonl").keys() == sure.keys()
    assert "  left out: 2 of other splits\n" in out
    assert {path.name for path in (exported / "a").iterdir()} == {
        "README.md", ".compositional-prompts", "images-000", "metadata.jsonl",
    }  # fmt: skip
    # "UP" says no colour, so that a sure one is not asked of it.
    colors = {name: expected[name]["color_confidence"] for name in sure}
    least = round(max(value for value in colors.values() if value is not None), 4)
    status, out, _ = run(
        "export-data", "b", "--form", "jsonl", *arguments, "--min-confidence", f"color={least}"
    )
    assert status == 0
    wanted = {name for name, value in colors.items() if value is None or value > least - 1e-4}
    assert rows_of(exported / "b", "jsonl").keys() == wanted
    assert f"  left out: {3 - len(wanted)} below --min-confidence" in out
    status, out, err = run("export-data", "c", "--form", "csv", "--min-confidence", "1")
    assert (status, out) == (2, "")
    assert "nothing to export: 5 below --min-confidence, or of unknown confidence." in err
    assert not (exported / "c").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-confidence", "size=0.5"], "there is no 'size'; expected a number, which is for"),
        (["--public"], "--public is of what is pushed: give --push OWNER/NAME with it."),
        (["--only-new", "data"], "--only-new data: the folder is no export of"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: list[str], message: str, exported: Path, run: Run
) -> None:
    status, _, err = run("export-data", "out", "--form", "csv", *arguments)
    assert status == 2
    assert message in err
    assert not (exported / "out").exists()


def add_photos(exported: Path) -> None:
    """Another delivery: one photo more, and another caption of one."""
    shutil.rmtree(exported / "data")
    changed = [dataclasses.replace(PHOTOS[0], words=("red", "leather")), *PHOTOS[1:]]
    write_exported_project(exported, [*changed, Photo("new", split="val")])


def test_only_what_an_earlier_export_did_not_have(exported: Path, run: Run) -> None:
    assert run("export-data", "first", "--form", "coco")[0] == 0
    status, _, err = run("export-data", "second", "--form", "csv", "--only-new", "first")
    assert status == 2
    assert "--only-new first: it has the captions 'recommended', and these are 'readable'" in err
    same = ("--form", "csv", "--captions", "recommended", "--only-new", "first")
    status, _, err = run("export-data", "second", *same)
    assert status == 2
    assert "nothing to export: 5 not new." in err
    add_photos(exported)
    status, out, _ = run("export-data", "second", *same)
    assert status == 0
    assert rows_of(exported / "second", "csv").keys() == {PHOTOS[0].image_id, "new"}
    assert "1 of them of photos that were there, captioned anew" in out
    assert "left out: 4 not new" in out
    status, _, err = run("export-data", "third", *same, "--only-new", "second")
    assert "nothing to export: 6 not new." in err
    status, _, err = run("export-data", "first", *same, "--force")
    assert status == 2
    assert "first holds first, which is read: name another folder." in err


def test_only_what_a_revision_did_not_have(
    exported: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DVC's cache has it; how that is asked is tested with the comparison of revisions."""
    shutil.copytree(exported, exported.parent / "HEAD")
    asked = []

    class Opened:
        def __init__(self, root: Path, revision: str, paths: list[Path]) -> None:
            asked.append((revision, *map(str, paths)))

        def __enter__(self) -> Path:
            return exported.parent / "HEAD"

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(
        "compositional_prompts.deployment.dataset_export.earlier_rows.open_revision", Opened
    )
    add_photos(exported)
    assert run("export-data", "out", "--form", "csv", "--only-new")[0] == 0
    assert asked == [("HEAD", "data/catalog", "data/recommended.parquet")]
    assert rows_of(exported / "out", "csv").keys() == {"new"}  # all texts read as before
    arguments = ("--captions", "enhanced", "--only-new", "HEAD~1")
    assert run("export-data", "more", "--form", "csv", *arguments)[0] == 0
    assert asked[1:] == [("HEAD~1", "data/catalog", "data/prompts/enhanced.parquet")]
    assert rows_of(exported / "more", "csv").keys() == {PHOTOS[0].image_id, "new"}


def test_only_an_earlier_export_is_replaced(
    exported: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (exported / "mine").mkdir()
    (exported / "mine" / "photo.jpg").write_text("mine")
    for arguments, message in (
        ([], "mine is not empty"),
        (["--force"], "mine is no earlier export (no .compositional-prompts/export.json)"),
    ):
        status, _, err = run("export-data", "mine", "--form", "csv", *arguments)
        assert status == 2
        assert message in err
    assert run("export-data", "out", "--form", "jsonl")[0] == 0
    before = files_of(exported / "out")

    def fail(*_: Any) -> None:
        raise ValueError("no card today")

    monkeypatch.setattr(data_export, "write_dataset_card", fail)
    status, _, err = run("export-data", "out", "--form", "hub", "--force")
    assert (status, err) == (2, "compositional-prompts: no card today\n")
    assert files_of(exported / "out") == before
    assert not list(exported.glob(".out*"))
    monkeypatch.undo()
    monkeypatch.chdir(exported)
    assert run("export-data", "out", "--form", "csv", "--force")[0] == 0
    assert {path.name for path in (exported / "out").iterdir()} == {
        "README.md", ".compositional-prompts", "captions.csv",
    }  # fmt: skip


def test_what_is_missing_is_named(exported: Path, run: Run) -> None:
    missing = [
        *("data/prompts/enhanced.parquet", "models/word_scorer/config.json"),
        "data/recommended.parquet",
    ]
    for name in missing:
        (exported / name).unlink()
    status, _, err = run("export-data", "out", "--form", "csv")
    assert status == 2
    assert "data/prompts/enhanced.parquet is missing.\n" in err
    assert "data/recommended.parquet is missing. Run `dvc repro enhance recommend`" in err


def test_tables_of_two_runs_are_named(exported: Path, run: Run) -> None:
    path = exported / "data" / "splits.parquet"
    pq.write_table(pq.read_table(path).slice(0, 4), path)
    status, _, err = run("export-data", "out", "--form", "csv")
    assert status == 2
    assert "data/splits.parquet lacks 1 of the images of data/catalog, the first 'up'" in err
    assert not (exported / "out").exists()


def front_matter(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_what_the_card_says(exported: Path, run: Run) -> None:
    assert run("export-data", "shop", "--form", "hub", "--split", "train", "--split", "val")[0] == 0
    matter = front_matter(exported / "shop")
    assert matter["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/train-*.parquet"},
        {"split": "validation", "path": "data/validation-*.parquet"},
    ]
    assert (matter["license"], matter["size_categories"]) == ("mit", "n<1K")
    card = (exported / "shop" / "README.md").read_text()
    assert "| validation | 1 |" in card
    assert "Left out: 2 rows of other splits." in card
    assert "| color | 242 | 95.0 % | 97.5 % |" in card
    assert "The photos are drawn, not taken." in card
    assert "calibrated on validation images" in card
    assert "the softmax of scores, not calibrated" in card


def test_figures_of_other_tables_are_not_told(exported: Path, run: Run) -> None:
    path = exported / "data" / "recommended.parquet"
    pq.write_table(pq.read_table(path), path, compression="none")
    for name in ("changed", "unlocked"):
        assert run("export-data", name, "--form", "csv")[0] == 0
        card = (exported / name / "README.md").read_text()
        assert "95.0 %" not in card
        assert "None is given" in card
        (exported / "dvc.lock").unlink(missing_ok=True)
    lock_recommendation(exported)
    assert run("export-data", "told", "--form", "csv")[0] == 0
    assert "95.0 %" in (exported / "told" / "README.md").read_text()


def test_data_of_others_keep_their_licence(exported: Path, run: Run) -> None:
    params = yaml.safe_load((exported / "params.yaml").read_text())
    params["download"] |= {"dataset": "folder"}
    params["download"]["folder"] |= {"path": "photos", "labels": "photos.csv"}
    (exported / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert run("export-data", "shop", "--form", "hub")[0] == 0
    matter = front_matter(exported / "shop")
    assert (matter["license"], matter["license_name"]) == ("other", "see-licence")
    assert (
        "Whose the photographs are, the exporter knows."
        in (exported / "shop" / "README.md").read_text()
    )
    assert run("export-data", "cc", "--form", "hub", "--license", "cc-by-4.0")[0] == 0
    assert front_matter(exported / "cc")["license"] == "cc-by-4.0"


def test_names_of_files_are_plain_and_never_shared() -> None:
    ids = [
        *("15970", "shoe_1-a", "A", "a", "a.jpg", "../a", "/etc/passwd", "con", "lpt1", ".hidden"),
        *("a/b", "a\\b", "a b", "a-b", "-", "", "\0", "x" * 300, "x" * 301, "\N{SNOWMAN}"),
        photo_stem("A"),
    ]
    stems = [photo_stem(name) for name in ids]
    assert len({stem.lower() for stem in stems}) == len(ids)
    assert stems[:2] == ids[:2]
    for stem in stems:
        assert stem.isascii()
        assert len(stem) <= 81
        assert not set("./\\ \0") & set(stem)
        assert stem not in ("con", "lpt1")


def test_groups_that_are_called_as_other_columns_have_names_of_their_own() -> None:
    columns = ExportColumns(["color", "title", "color_truth", "group_title"])
    names = columns.schema.names
    assert len(set(names)) == len(names)
    assert columns.groups["color"].word == "color"
    assert columns.groups["title"].word == "group_title"
    assert columns.groups["group_title"].word == "group_group_title"
    assert columns.groups["color_truth"].word == "group_color_truth"


def row_of(number: int) -> tuple[dict[str, Any], bytes]:
    values = {"image_id": f"{number}", "product_id": "p", "split": "train", "caption": "c"}
    return values | {"caption_source": "enhanced"}, picture(number, "PNG")


def test_large_data_sets_lie_in_several_files(tmp_path: Path) -> None:
    schema = ExportColumns(["color"]).schema
    for number in range(2):
        (tmp_path / f"hub{number}").mkdir()
        (tmp_path / f"tars{number}").mkdir()
        parquet = HubParquet(tmp_path / f"hub{number}", schema, 4000)
        tars = WebdatasetTars(tmp_path / f"tars{number}", 20_000)
        for row in range(number, 60):
            values, encoded = row_of(row)
            full = {name: values.get(name, "") for name in schema.names}
            full |= {name: None for name in schema.names if "confidence" in name}
            photo = photo_file(values["image_id"], encoded)
            parquet.write(full, photo)
            tars.write(full, photo)
        parquet.finish()
        tars.finish()
    for kind, pattern in (("hub", "data/*.parquet"), ("tars", "*.tar")):
        first, second = (sorted((tmp_path / f"{kind}{n}").glob(pattern)) for n in range(2))
        assert len(first) > 3
        # One row less leaves most files as they were.
        assert (
            len({p.read_bytes() for p in first} & {p.read_bytes() for p in second})
            >= len(first) - 2
        )
    rows = pl.read_parquet(tmp_path / "hub0" / "data" / "*.parquet")
    assert rows["image_id"].to_list() == [f"{row}" for row in range(60)]
    paths = sorted(map(str, (tmp_path / "tars0").glob("*.tar")))
    found = [sample["__key__"] for sample in webdataset.WebDataset(paths, shardshuffle=False)]
    assert found == [f"{row}" for row in range(60)]
    listed = subprocess.run(["tar", "tvf", paths[0]], capture_output=True, text=True, check=True)
    assert "1970-01-01" in listed.stdout


def test_the_manifest_is_json(exported: Path, run: Run) -> None:
    assert run("export-data", "out", "--form", "csv", "--split", "test")[0] == 0
    manifest = read_json(exported / "out" / MANIFEST)
    assert manifest["rows"] == {"test": 2}
    assert manifest["left_out"] == {"other_split": 3}
    assert json.dumps(manifest)
