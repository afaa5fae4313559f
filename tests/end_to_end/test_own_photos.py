"""A user's own folder of photographs, good and bad ones, through ``dvc repro``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from dvc_project import Project, ran
from PIL import Image
from ruamel.yaml import YAML

pytestmark = pytest.mark.end_to_end

STAGES = ("download", "split")
GOOD = 36
ATTRIBUTES = ("Canvas", "Leather", "Rubber")
OBJECTS = ("Sandals", "Boots", "Flats")
OUTPUTS = ("data/catalog", "data/rejected.parquet", "metrics/download.json")


@pytest.fixture(scope="module")
def prepared(new_project: Callable[[str], Project]) -> Project:
    project = new_project("folder")
    project.change(
        {
            "download.dataset": "folder",
            "download.max_rejected": {"share": 0.2, "count": 0},
            # Without labels there must be something to predict.
            "split.attributes": list(ATTRIBUTES),
            "split.objects": list(OBJECTS),
        }
    )
    project.commit("Own photographs")
    return project


@pytest.fixture
def project(prepared: Project, tmp_path: Path) -> Project:
    """A clone that reads images from the folder ``photos`` inside it."""
    root = tmp_path / "project"
    prepared.git("clone", "--quiet", str(prepared.root), str(root))
    (root / "photos").mkdir()
    return Project(root, prepared.home)


def draw_photos(folder: Path) -> list[str]:
    """Images of noise, every combination of attribute and object alike often; the CSV's lines."""
    rng = np.random.default_rng(11)
    lines = ["image_path,attribute,object,title,color"]
    for number in range(GOOD):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        name = f"{number:02d}.{'jpg' if number % 2 else 'png'}"
        Image.fromarray(pixels).save(folder / name)
        attribute, object_ = ATTRIBUTES[number % 3], OBJECTS[number // 3 % 3]
        lines.append(f'{name},{attribute},{object_},"A {attribute} one, number {number}",black')
    return lines


def spoil(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Add odd and broken images; the names of the usable ones, and the reason of each other."""
    rng = np.random.default_rng(12)
    photo = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    (folder / "odd").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "odd" / "exif.jpg", exif=exif)
    photo.convert("CMYK").save(folder / "odd" / "cmyk.jpg")
    photo.convert("P").save(folder / "odd" / "palette.png", transparency=0)
    photo.convert("L").save(folder / "odd" / "grey.png")
    photo.resize((20_000, 12)).save(folder / "odd" / "wide.png")
    usable = [f"odd/{name}" for name in ("cmyk.jpg", "exif.jpg", "grey.png", "palette.png")]
    encoded = (folder / "odd" / "cmyk.jpg").read_bytes()
    (folder / "odd" / "truncated.jpg").write_bytes(encoded[: len(encoded) // 2])
    (folder / "odd" / "corrupt.png").write_bytes(rng.bytes(500))
    (folder / "odd" / "zero.jpg").touch()
    reasons = {
        "odd/corrupt.png": "unreadable",
        "odd/truncated.jpg": "truncated",
        "odd/wide.png": "too_elongated",
        "odd/zero.jpg": "empty_file",
    }
    return usable, reasons


def test_good_photographs_go_through_and_bad_ones_are_counted(project: Project) -> None:
    lines = draw_photos(project.root / "photos")
    usable, reasons = spoil(project.root / "photos")
    (project.root / "photos.csv").write_text("\n".join(lines) + "\n")
    project.change({"download.folder.labels": "photos.csv"})

    assert ran(project.dvc("repro", *STAGES)) == ["check", *STAGES]
    metrics = project.metrics("download")
    assert metrics["images"] == GOOD + len(usable)
    assert metrics["labelled"] == GOOD
    assert metrics["rejected"] == dict.fromkeys(reasons.values(), 1)
    rejected = pl.read_parquet(project.root / "data" / "rejected.parquet")
    assert dict(rejected.select("path", "reason").iter_rows()) == reasons
    catalog = pl.read_parquet(project.root / "data" / "catalog" / "*.parquet")
    labelled = catalog.drop_nulls("attribute")
    assert labelled.height == GOOD
    assert set(catalog.filter(pl.col("attribute").is_null())["image_id"]) == set(usable)
    splits = pl.read_parquet(project.root / "data" / "splits.parquet")
    assert sorted(splits["image_id"]) == sorted(catalog["image_id"])
    assert project.metrics("split")["pairs"]["seen"] > 0
    assert ran(project.dvc("repro", *STAGES)) == []


def test_too_many_bad_photographs_stop_the_run(project: Project) -> None:
    spoil(project.root / "photos")
    fails_cleanly(project, r"4 of 8 images cannot be used", "download.max_rejected")


def test_an_empty_folder_is_an_error(project: Project) -> None:
    fails_cleanly(project, "empty data set: photos holds no image")


def test_a_missing_folder_is_an_error(project: Project) -> None:
    (project.root / "photos").rmdir()
    fails_cleanly(project, "download.folder.path: there is no directory photos")


def test_a_missing_column_is_an_error(project: Project) -> None:
    lines = draw_photos(project.root / "photos")
    lines[0] = lines[0].replace("image_path", "file")
    (project.root / "photos.csv").write_text("\n".join(lines))
    project.change({"download.folder.labels": "photos.csv"})
    fails_cleanly(project, "photos.csv: no column names the images; found file,", "image_path")


def test_an_image_named_twice_is_an_error(project: Project) -> None:
    lines = draw_photos(project.root / "photos")
    (project.root / "photos.csv").write_text("\n".join([*lines, lines[1]]))
    project.change({"download.folder.labels": "photos.csv"})
    fails_cleanly(project, f"photos.csv, line {GOOD + 2}", "00.png")


def fails_cleanly(project: Project, *messages: str) -> None:
    """``dvc repro`` fails with every one of the messages and leaves nothing behind."""
    status, output = project.attempt("dvc", "repro", *STAGES)
    assert status != 0
    for message in messages:
        assert message in output
    assert "failed to reproduce 'download'" in output
    left = [name for name in OUTPUTS if (project.root / name).exists()]
    assert not left, f"left behind: {left}"
    # `check`, which comes first, found no fault.
    assert list(YAML().load(project.root / "dvc.lock")["stages"]) == ["check"]
    hidden = [path for path in (project.root / "data").rglob(".*") if path.name != ".gitignore"]
    assert not hidden, f"scratch left behind: {hidden}"
