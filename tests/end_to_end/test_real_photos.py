"""The footwear preset on a few hundred real photographs, from the Parquet files to the page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browser import check_page
from dvc_project import Project, ran

pytestmark = [pytest.mark.end_to_end, pytest.mark.real_photos]

PHOTOS = 400
# Every stage does its work, none of them for long: results are checked for sense, not for quality.
SHORT = {
    "weights.pretrain.clip_image_epochs": 1,
    "weights.pretrain.clip_text_epochs": 1,
    "weights.pretrain.clip_batch": 32,
    "weights.pretrain.blip2_epochs": 1,
    "weights.pretrain.blip2_batch": 32,
    "troika_train.epochs": 1,
    "finetune.epochs": 1,
    "infer.images": 20,
    "infer.num_beams": 2,
    "infer.max_new_tokens": 20,
    "report.gallery_images": 4,
}


@pytest.fixture(scope="module")
def footwear_run(new_project: Callable[[str], Project], real_photos: Path) -> Project:
    """The footwear preset on the first shoes of the photographs, after ``dvc repro``."""
    project = new_project("footwear")
    project.run(sys.executable, "-m", "compositional_prompts", "preset", "footwear")
    photos = {
        "download.fashion_products.source": str(real_photos.resolve()),
        "download.fashion_products.limit": PHOTOS,
        "download.fashion_products.min_pair_images": 2,
    }
    project.change(SHORT | photos)
    output = project.dvc("repro")
    assert sorted(ran(output)) == sorted(project.stages())
    return project


def shares(document: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested metrics that is a share by its name, or an end of its interval.

    Differences (``minus``) are none.
    """
    for key, value in document.items():
        name = f"{where}{key}"
        if key == "minus":
            continue
        if isinstance(value, dict):
            yield from shares(value, f"{name}.")
        elif isinstance(value, list) and key.endswith("_interval"):
            ends = zip(("from", "to"), value, strict=True)
            yield from shares({f"{name} {end}": number for end, number in ends})
        elif value is not None and any(
            part in name for part in ("accuracy", "coverage", "bleu", "rouge", "auc", "best_hm")
        ):
            yield name, value


def test_every_photograph_is_accounted_for(footwear_run: Project) -> None:
    download = footwear_run.metrics("download")
    dropped = download["dropped"]
    assert download["rejected"] == {}
    assert download["images"] + dropped["rare_pair"] + dropped["missing_label"] == PHOTOS
    assert dropped["over_limit"] > 0
    catalog = pl.read_parquet(footwear_run.root / "data" / "catalog" / "*.parquet")
    assert catalog.height == download["images"] > PHOTOS // 2
    assert catalog["image_id"].n_unique() == catalog.height
    pairs = catalog.drop_nulls("attribute").group_by("attribute", "object").len()
    assert pairs.filter(pl.col("len") < 2).is_empty()


def test_pretraining_sees_training_images_only(footwear_run: Project) -> None:
    data = footwear_run.root / "data"
    catalog = pl.read_parquet(data / "catalog" / "*.parquet").select(
        "image_id", "title", bytes=pl.col("image").struct.field("bytes")
    )
    splits = pl.read_parquet(data / "splits.parquet")
    corpus = pl.read_parquet(data / "corpus.parquet").select(
        "caption", bytes=pl.col("image").struct.field("bytes")
    )
    assert 0 < corpus.height == footwear_run.metrics("split")["corpus_images"]
    held_out = catalog.join(splits, on="image_id").filter(
        (pl.col("caption_split") != "train") | (pl.col("pair_split") != "train")
    )
    # The shop shows some products twice under one title: what counts is the photograph.
    seen = corpus.join(held_out, left_on=["bytes", "caption"], right_on=["bytes", "title"])
    assert seen.height == 0


def test_metrics_make_sense(footwear_run: Project) -> None:
    for name in ("enhance", "troika", "scores"):
        metrics = dict(shares(footwear_run.metrics(name)))
        assert metrics, name
        outside = {key: value for key, value in metrics.items() if not 0 <= value <= 1}
        assert not outside, f"metrics/{name}.json: {outside}"
    color = footwear_run.metrics("enhance")["color"]
    assert color["images"] == footwear_run.metrics("download")["images"]
    assert 0 < color["images_with_truth"] <= color["images"]
    # The shop's black, white and brown are on the photographs, whatever the models learned.
    assert color["pixel_accuracy"] > 0.25
    assert color["majority_accuracy"] < 0.9
    scores = footwear_run.metrics("scores")
    assert scores["base"]["images"] == scores["finetuned"]["images"] == 20


def test_every_image_has_its_prompt(footwear_run: Project) -> None:
    data = footwear_run.root / "data"
    prompts = pl.read_parquet(data / "prompts" / "enhanced.parquet")
    splits = pl.read_parquet(data / "splits.parquet")
    assert set(prompts["image_id"]) == set(splits["image_id"])
    written = prompts["enhanced_prompt"]
    assert written.str.contains(r"^A photo of \S+_\S+ with .+ color and .+ material$").all()


def test_the_page_reads_well(footwear_run: Project) -> None:
    check_page(footwear_run.root / "reports" / "index.html")
