"""The stages download and split as dvc runs them, on a folder of good and bad images."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from compositional_miniature import ut_archives, ut_zappos
from PIL import Image

ROOT = Path(__file__).parents[2]
OUTPUTS = {
    "download": {
        "catalog": "catalog",
        "truth": "truth.parquet",
        "rejected": "rejected.parquet",
        "listed-pairs": "listed_pairs.parquet",
    },
    "split": {
        "catalog": "catalog",
        "listed-pairs": "listed_pairs.parquet",
        "download": "download.json",
        "splits": "splits.parquet",
        "pairs": "pairs.parquet",
        "corpus": "corpus.parquet",
    },
}

LOST = ("Canvas", "Slippers")


def run(
    stage: str, directory: Path, params: dict[str, Any]
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run a stage with its outputs in ``directory``; its metrics are empty where it failed."""
    (directory / "params.yaml").write_text(yaml.safe_dump(params))
    outputs = OUTPUTS[stage] | {
        "metrics": f"{stage}.json",
        "params": "params.yaml",
    }
    arguments = [part for name, file in outputs.items() for part in (f"--{name}", directory / file)]
    done = subprocess.run(
        [sys.executable, ROOT / "stages" / f"{stage}.py", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    metrics = directory / f"{stage}.json"
    return done, json.loads(metrics.read_text()) if metrics.is_file() else {}


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["download"]["dataset"] = "folder"
    document["download"]["folder"] |= {"path": str(tmp_path / "photos"), "labels": None}
    document["download"]["max_rejected"] = {"share": 0.5, "count": 0}
    return document


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    directory = tmp_path / "photos"
    (directory / "sub").mkdir(parents=True)
    noise = np.random.default_rng(5).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    photo = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(directory / "exif.jpg", exif=exif)
    photo.convert("CMYK").save(directory / "cmyk.jpg")
    photo.convert("P").save(directory / "palette.png", transparency=1)
    photo.convert("L").save(directory / "sub" / "grey.JPEG")
    photo.resize((20000, 10)).save(directory / "wide.jpg")
    content = (directory / "cmyk.jpg").read_bytes()
    (directory / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (directory / "corrupt.jpg").write_bytes(b"no image" * 50)
    (directory / "zero.png").touch()
    return directory


def test_good_images_go_through_and_bad_ones_are_set_aside(
    tmp_path: Path, photos: Path, params: dict[str, Any]
) -> None:
    done, metrics = run("download", tmp_path, params)
    assert done.returncode == 0, done.stderr
    assert metrics["images"] == 4
    assert metrics["rejected"] == {
        "empty_file": 1,
        "unreadable": 1,
        "truncated": 1,
        "too_elongated": 1,
    }
    catalog = pl.read_parquet(tmp_path / "catalog" / "*.parquet")
    names = ["cmyk.jpg", "exif.jpg", "palette.png", "sub/grey.JPEG"]
    assert catalog["image_id"].to_list() == names
    bytes_ = catalog["image"].struct.field("bytes").to_list()
    assert bytes_ == [(photos / name).read_bytes() for name in names]
    rejected = pl.read_parquet(tmp_path / "rejected.parquet")
    assert rejected.select("path", "reason").rows() == [
        ("corrupt.jpg", "unreadable"),
        ("truncated.jpg", "truncated"),
        ("wide.jpg", "too_elongated"),
        ("zero.png", "empty_file"),
    ]
    timing = json.loads((tmp_path / "timing/download.json").read_text())
    assert (timing["stage"], timing["rows"]) == ("download", 4)

    done, _ = run("split", tmp_path, params)
    assert done.returncode != 0
    assert "no image has a label" in done.stderr
    params["split"] |= {"attributes": ["Red", "Blue"], "objects": ["Shoe"]}
    done, metrics = run("split", tmp_path, params)
    assert done.returncode == 0, done.stderr
    assert metrics["added_pairs"] == 2
    assert sum(metrics["images"].values()) == 4
    assert min(metrics["images"].values()) == 1
    assert metrics["assignment"] == "stable"
    assert pl.read_parquet(tmp_path / "splits.parquet")["image_id"].to_list() == names
    assert pl.read_parquet(tmp_path / "corpus.parquet").height == 0


def test_too_many_bad_images_stop_the_stage(
    tmp_path: Path, photos: Path, params: dict[str, Any]
) -> None:
    params["download"]["max_rejected"] = {"share": 0.01, "count": 2}
    done, metrics = run("download", tmp_path, params)
    assert done.returncode != 0
    assert metrics == {}
    assert "4 of 8 images cannot be used" in done.stderr
    assert not (tmp_path / "catalog").exists()


def test_labels_and_titles_reach_pairs_and_corpus(tmp_path: Path, params: dict[str, Any]) -> None:
    (tmp_path / "photos").mkdir()
    lines = ["image_path,attribute,object,title"]
    for number in range(30):
        name = f"{number:02d}.png"
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / name)
        lines.append(f"{name},{'ABC'[number % 3]},{'uvw'[number // 3 % 3]},title {number}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines))
    params["download"]["folder"]["labels"] = str(labels)
    params["split"] |= {"corpus": True, "assignment": "exact"}
    for stage in ("download", "split"):
        done, metrics = run(stage, tmp_path, params)
        assert done.returncode == 0, done.stderr
    assert metrics["assignment"] == "exact"
    assert metrics["pairs"] == {"seen": 7, "unseen_val": 1, "unseen_test": 1}
    images = pl.read_parquet(tmp_path / "splits.parquet")
    training = images.filter(pl.col("caption_split") == "train", pl.col("pair_split") == "train")
    captions = pl.read_parquet(tmp_path / "corpus.parquet")["caption"].to_list()
    assert captions == [f"title {int(name[:2])}" for name in training["image_id"]]
    assert metrics["corpus_images"] == len(captions) > 0


def test_the_natural_split_of_ut_zappos_arrives(tmp_path: Path, params: dict[str, Any]) -> None:
    data = ut_zappos()
    # All photos of one listed pair are lost, one is damaged.
    lost = [entry for entry in data.entries if (entry["attr"], entry["obj"]) == LOST]
    for entry in lost:
        data.photos[entry["image"]] = b"lost"
    archives = ut_archives(tmp_path / "archives", data)
    params["download"]["dataset"] = "ut_zappos"
    params["download"]["ut_zappos"] = {"path": None} | {
        name: {"url": path.as_uri(), "size": None, "sha256": None}
        for name, path in archives.items()
    }
    done, metrics = run("download", tmp_path, params)
    assert done.returncode == 0, done.stderr
    assert "pin both in params.yaml" in done.stderr
    assert (metrics["images"], metrics["pairs"]) == (18, 7)
    assert metrics["rejected"] == {"unreadable": 2}
    assert metrics["dropped"] == {"missing_label": 1, "unlisted_pair": 1, "no_split": 1}

    done, metrics = run("split", tmp_path, params)
    assert done.returncode == 0, done.stderr
    assert metrics["pairs"] == {"seen": 5, "unseen_val": 1, "unseen_test": 2}
    assert metrics["pairs_without_images"] == 1
    assert metrics["assignment"] == "exact"
    pairs = pl.read_parquet(tmp_path / "pairs.parquet")
    listed = {pair for pairs_ in data.pairs.values() for pair in pairs_}
    assert set(pairs.select("attribute", "object").iter_rows()) == listed
    assert set(pairs.filter("seen").select("attribute", "object").iter_rows()) == set(
        data.pairs["train"]
    )
    assert pairs.filter(pl.col("images") == 0).select("attribute", "object").rows() == [LOST]
    images = {entry["image"]: entry["set"] for entry in data.entries[:-3] if entry not in lost}
    splits = pl.read_parquet(tmp_path / "splits.parquet")
    assert dict(splits.select("image_id", "pair_split").iter_rows()) == images
    seen = splits.join(pairs, on=["attribute", "object"], how="left", maintain_order="left")
    assert splits["pair_seen"].to_list() == seen["seen"].to_list()
    by_product = splits.group_by("product_id").agg(pl.col("caption_split").n_unique())
    assert by_product["caption_split"].max() == 1
    assert by_product.height == 9
