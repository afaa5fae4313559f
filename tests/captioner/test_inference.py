"""Captions of many images, in shards; a killed stage goes on where it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
import torch
import yaml
from micro_blip2 import QUERIES, miniature, save

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.captioner.decoding.token_automaton import compile_grammar
from compositional_prompts.captioner.features.feature_store import FeatureStore, write_features
from compositional_prompts.captioner.inference import (
    caption_in_shards,
    caption_split,
    fitting_batch,
    images_to_caption,
)
from compositional_prompts.captioner.parameters import Infer
from compositional_prompts.files.tables import write_table

IMAGES = 12


def captions_of(ids, captions) -> pa.Table:
    return pa.table([ids, captions, [None] * len(ids)], schema=CAPTIONS)


def settings(**changes) -> Infer:
    values = {
        "split": "test",
        "images": None,
        "precision": "float32",
        "batch_size": 2,
        "num_beams": 2,
        "length_penalty": 1.0,
        "sampling": None,
        "grammar": False,
        "max_new_tokens": 6,
        "shard_images": 5,
    }
    return Infer(**(values | changes))


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    # In another order than that of their names.
    ids = [f"image-{(5 * number) % IMAGES:02d}" for number in range(IMAGES)]
    features = torch.randn(IMAGES, QUERIES, 32, generator=torch.Generator().manual_seed(0))
    write_features([(ids, features.half())], tmp_path / "features")
    return FeatureStore(tmp_path / "features")


IDS = [f"image-{number:02d}" for number in range(IMAGES)]


def test_shards_are_captioned_once_and_sorted(tmp_path) -> None:
    asked: list[list[str]] = []

    def caption(ids) -> pa.Table:
        asked.append(list(ids))
        return captions_of(ids, [f"caption of {image_id}" for image_id in ids])

    ids = IDS[::-1]
    (tmp_path / "shards").mkdir()
    table = caption_in_shards(ids, caption, tmp_path / "shards", 5)
    assert table.column("image_id").to_pylist() == IDS
    assert table.column("caption").to_pylist() == [f"caption of {i}" for i in IDS]
    assert asked == [ids[:5], ids[5:10], ids[10:]]
    # One shard is lost: only that is captioned again.
    sorted((tmp_path / "shards").iterdir())[1].unlink()
    asked.clear()
    assert caption_in_shards(ids, caption, tmp_path / "shards", 5) == table
    assert asked == [ids[5:10]]


def test_a_failing_shard_leaves_those_before_it(tmp_path) -> None:
    def caption(ids) -> pa.Table:
        if IDS[5] in ids:
            raise RuntimeError("out of memory")
        return captions_of(ids, ["a caption"] * len(ids))

    with pytest.raises(RuntimeError, match="out of memory"):
        caption_in_shards(IDS, caption, tmp_path, 5)
    assert len(list(tmp_path.iterdir())) == 1


def test_shards_of_another_run_are_refused(tmp_path) -> None:
    def caption(ids) -> pa.Table:
        return captions_of(ids, ["x"] * len(ids))

    caption_in_shards(IDS, caption, tmp_path, 5)
    with pytest.raises(ValueError, match="other images"):
        caption_in_shards(IDS[::-1], caption, tmp_path, 5)


def test_no_image_gives_an_empty_table(tmp_path) -> None:
    table = caption_in_shards([], lambda ids: captions_of(ids, []), tmp_path, 5)
    assert table == CAPTIONS.empty_table()


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("all", ("train", "val", "test")),
        ("train", ("train", "val", "test")),
        ("test", ("val", "test")),
        (["val"], ("val", "test")),
        (["test", "train"], ("train", "val", "test")),
    ],
)
def test_validation_and_test_images_are_always_captioned(split, names) -> None:
    assert settings(split=split).captioned_splits == names


@pytest.mark.parametrize("split", ["everything", [], ["all"], ["val", "val"], ["val", 3], None, 3])
def test_what_is_no_split_is_refused(split) -> None:
    with pytest.raises(ValueError, match="must be all, one of train, val, test, or a list"):
        settings(split=split)


@pytest.fixture
def splits(tmp_path) -> Path:
    names = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    path = tmp_path / "splits.parquet"
    pl.DataFrame({"image_id": IDS, "caption_split": names}).write_parquet(path)
    return path


def test_the_untrained_model_captions_what_is_scored(splits) -> None:
    images = images_to_caption(splits, settings(split="all", grammar=True), 0, trained=False)
    assert (list(images.captioned), list(images.free_too)) == (IDS[9:], [])


def test_the_grammar_has_free_captions_beside_it_where_texts_are_judged(splits) -> None:
    images = images_to_caption(splits, settings(split="all", grammar=True), 0, trained=True)
    assert (list(images.captioned), list(images.free_too)) == (IDS, IDS[6:])
    images = images_to_caption(splits, settings(split="all"), 0, trained=True)
    assert (list(images.captioned), list(images.free_too)) == (IDS, [])


def test_images_are_so_many_of_every_split(splits) -> None:
    params = settings(split="all", grammar=True, images=2)
    images = images_to_caption(splits, params, 0, trained=True)
    assert len(images.captioned) == 6
    assert len(images.free_too) == 4
    assert set(images.free_too) < set(images.captioned)
    scored = images_to_caption(splits, params, 0, trained=False).captioned
    assert set(scored) < set(images.free_too)


def test_free_captions_stand_beside_those_of_the_grammar(tmp_path, store) -> None:
    captioner = miniature("opt")
    grammar = compile_grammar(
        [["white", "red"], [" boots"]], captioner.tokenizer, captioner.end_of_caption
    )
    params = settings(grammar=True, shard_images=5)

    def captions(name: str, ids, **options) -> pl.DataFrame:
        (tmp_path / name).mkdir()
        table = caption_split(
            captioner, store, ids, params, seed=1, scratch=tmp_path / name, **options
        )
        return pl.DataFrame(pl.from_arrow(table))

    both = captions("both", IDS, grammar=grammar, free_too=IDS[3:6])
    free = captions("free", IDS[3:6], grammar=None)
    assert set(both["caption"]) <= {"white boots", "red boots"}
    assert both["free_caption"].to_list() == [None] * 3 + free["caption"].to_list() + [None] * 6
    assert free["free_caption"].to_list() == [None] * 3


def test_shards_and_batches_change_no_caption(tmp_path, store) -> None:
    captioner = miniature("opt")
    tables = []
    for number, changes in enumerate(
        [{"batch_size": 1, "shard_images": 1}, {"batch_size": 8}, {"shard_images": 100}]
    ):
        scratch = tmp_path / f"scratch-{number}"
        scratch.mkdir()
        tables.append(
            caption_split(
                captioner, store, IDS, settings(**changes), seed=1, grammar=None, scratch=scratch
            )
        )
    assert tables[0] == tables[1] == tables[2]
    assert len(set(tables[0].column("caption").to_pylist())) > 1


def test_the_batch_that_fits_is_tried_with_the_longest_captions(store, monkeypatch) -> None:
    captioner = miniature("opt")
    steps = []
    captioner.model.language_model.register_forward_hook(lambda *_: steps.append(1))
    monkeypatch.setattr(
        "compositional_prompts.captioner.inference.automatic_batch_size",
        lambda run, device, *, upper: [run(3), upper][1],
    )
    assert fitting_batch(captioner, store, IDS, settings(), None) == IMAGES
    assert len(steps) == settings().max_new_tokens


@pytest.fixture
def project(tmp_path, store, project_root) -> Path:
    """A folder with all that the stage reads, at its usual places."""
    save(miniature("opt"), tmp_path / "blip2")
    (tmp_path / "catalog").mkdir()
    splits = pa.table({"image_id": IDS, "caption_split": ["test"] * IMAGES})
    pl.from_arrow(splits).write_parquet(tmp_path / "splits.parquet")
    params = yaml.safe_load((project_root / "params.yaml").read_text())
    params["infer"] |= settings(batch_size=1, shard_images=2, max_new_tokens=30).model_dump()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def command(project_root: Path) -> list[str]:
    return [
        sys.executable, str(project_root / "stages" / "infer.py"),
        "--features", "features", "--catalog", "catalog", "--splits", "splits.parquet",
        "--blip2", "blip2", "--captions", "captions/base.parquet",
    ]  # fmt: skip


def test_a_killed_stage_goes_on(project, project_root) -> None:
    captions = project / "captions" / "base.parquet"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(project_root), cwd=project, env=environment, stderr=subprocess.DEVNULL
    )
    # Kill it when it has written a shard and has some to go.
    deadline = time.monotonic() + 120
    shards: list[Path] = []
    while not shards and process.poll() is None and time.monotonic() < deadline:
        shards = sorted(project.glob("scratch/infer-base/*/captions-*.parquet"))
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert shards and not captions.exists()
    first = shards[0]
    # What the rerun takes from it, if it does not caption it again.
    marked = pl.read_parquet(first).with_columns(caption=pl.lit("from the first run"))
    write_table(marked.to_arrow().cast(CAPTIONS), first, CAPTIONS)
    kept = marked["image_id"].to_list()

    subprocess.run(command(project_root), cwd=project, env=environment, check=True)
    resumed = pl.read_parquet(captions)
    assert resumed["image_id"].to_list() == IDS
    taken = pl.col("image_id").is_in(kept)
    assert set(resumed.filter(taken)["caption"]) == {"from the first run"}
    assert not (project / "scratch" / "infer-base").exists()

    whole = caption_split(
        miniature("opt"),
        FeatureStore(project / "features"),
        IDS,
        settings(batch_size=1, max_new_tokens=30),
        seed=0,
        grammar=None,
        scratch=project,
    )
    expected = pl.from_arrow(whole)
    assert resumed.filter(~taken).equals(expected.filter(~taken))
    shutil.rmtree(project / "captions")
