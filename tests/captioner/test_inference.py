"""Captions of many images: computed once, whatever is asked for beside them, and after a kill."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
import yaml
from base_section import base_section
from micro_blip2 import LORA, QUERIES, miniature, save
from small_catalog import write_catalog

from compositional_prompts.captioner import caption_rows, inference
from compositional_prompts.captioner.caption_rows import CaptionInput, Captions
from compositional_prompts.captioner.decoding.grammar_file import write_grammar
from compositional_prompts.captioner.features.feature_shards import (
    contents_digest,
    write_features,
    write_uncached,
)
from compositional_prompts.captioner.features.feature_store import FeatureStore
from compositional_prompts.captioner.inference import (
    CaptionInputs,
    ImagesToCaption,
    caption_split,
    captions_wanted,
    images_to_caption,
)
from compositional_prompts.captioner.model.lora import add_adapter, save_adapter
from compositional_prompts.captioner.parameters import Infer, Sampling
from compositional_prompts.catalog import catalog_photos
from compositional_prompts.catalog.catalog_photos import read_contents
from compositional_prompts.catalog.reading import iterate_positions
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.compute.precision import resolve_precision
from compositional_prompts.files.outputs import (
    DamagedOutputError,
    MismatchedOutputsError,
    MissingOutputError,
)

IMAGES = 12


def settings(**changes) -> Infer:
    values = {
        "split": "test",
        "images": None,
        "precision": "float32",
        "batch_size": 5,
        "num_beams": 2,
        "length_penalty": 1.0,
        "sampling": None,
        "grammar": False,
        "max_new_tokens": 6,
    }
    return Infer(**(values | changes))


# In another order than that of their names.
IN_CATALOG = [f"image-{(5 * number) % IMAGES:02d}" for number in range(IMAGES)]
IDS = [f"image-{number:02d}" for number in range(IMAGES)]


def write_project(root: Path, names: list[str], images: list[bytes]) -> None:
    """A catalog and features of its photos, which depend on the photo alone."""
    with open_shards(root / "catalog", 1) as writer:
        for name, image in zip(names, images, strict=True):
            writer.write(CatalogRow(name, name, image, name))
    contents = read_contents(root / "catalog")
    features = torch.stack(
        [
            torch.randn(
                QUERIES, 32, generator=torch.Generator().manual_seed(int.from_bytes(key[:7]))
            )
            for key in contents.tolist()
        ]
    )
    write_features(
        [(names, features.half())],
        root / "features",
        computation="a computation",
        contents=contents_digest(contents),
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return list(write_catalog(tmp_path_factory.mktemp("photos") / "c", IMAGES + 3).values())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, photos: list[bytes]) -> Path:
    """All that the stage reads; nothing is written into it."""
    root = tmp_path_factory.mktemp("project")
    write_project(root, IN_CATALOG, photos[:IMAGES])
    captioner = miniature("opt")
    save(captioner, root / "blip2")
    splits = pl.DataFrame({"image_id": IDS, "caption_split": ["test"] * IMAGES})
    splits.write_parquet(root / "splits.parquet")
    adapted = add_adapter(captioner, LORA)
    tensors = {
        name: torch.randn_like(value) if "lora_B" in name else value
        for name, value in adapted.named_parameters()
        if "lora_" in name
    }
    (root / "adapter").mkdir()
    save_adapter(adapted, tensors, root / "adapter")
    write_grammar([["white", "red"], [" boots", " sandals"]], root / "adapter")
    return root


def wanted(project: Path, params: Infer, *, trained: bool = False, seed: int = 1) -> Captions:
    inputs = CaptionInputs(project / "features", project / "catalog")
    device = torch.device("cpu")
    return captions_wanted(
        project / "blip2",
        project / "adapter" if trained else None,
        inputs.known,
        params,
        base_section(project / "rows", seed=seed),
        device,
        resolve_precision(params.precision, device),
    )


def captioned(
    project: Path,
    rows: Path,
    params: Infer,
    *,
    trained: bool = False,
    ids: list[str] = IDS,
    free_too: list[str] | None = None,
    seed: int = 1,
    **base: Any,
) -> tuple[pl.DataFrame, int]:
    """The captions, and how many were computed."""
    table, computed, _ = caption_split(
        wanted(project, params, trained=trained, seed=seed),
        CaptionInputs(project / "features", project / "catalog"),
        ImagesToCaption(pa.array(ids, pa.string()), pa.array(free_too or [], pa.string())),
        params,
        base_section(rows, **base),
    )
    return pl.DataFrame(pl.from_arrow(table)), computed


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
    assert (images.captioned.to_pylist(), images.free_too.to_pylist()) == (IDS[9:], [])


def test_the_grammar_has_free_captions_beside_it_where_texts_are_judged(splits) -> None:
    images = images_to_caption(splits, settings(split="all", grammar=True), 0, trained=True)
    assert (images.captioned.to_pylist(), images.free_too.to_pylist()) == (IDS, IDS[6:])
    images = images_to_caption(splits, settings(split="all"), 0, trained=True)
    assert (images.captioned.to_pylist(), images.free_too.to_pylist()) == (IDS, [])


def test_images_are_so_many_of_every_split(splits) -> None:
    params = settings(split="all", grammar=True, images=2)
    images = images_to_caption(splits, params, 0, trained=True)
    assert len(images.captioned) == 6
    assert len(images.free_too) == 4
    captioned, free_too = set(images.captioned.to_pylist()), set(images.free_too.to_pylist())
    assert free_too < captioned
    scored = images_to_caption(splits, params, 0, trained=False).captioned
    assert set(scored.to_pylist()) < free_too


def test_free_captions_stand_beside_those_of_the_grammar(project, tmp_path) -> None:
    params = settings(grammar=True)
    both, computed = captioned(project, tmp_path, params, trained=True, free_too=IDS[3:6])
    assert computed == IMAGES + 3
    texts = {f"{color} {kind}" for color in ("white", "red") for kind in ("boots", "sandals")}
    assert set(both["caption"]) <= texts and len(set(both["caption"])) > 1
    # Rows of their own: what is asked for freely is there already, of these images.
    free, computed = captioned(project, tmp_path, settings(), trained=True, ids=IDS[3:7])
    assert computed == 1
    assert both["image_id"].to_list() == IDS
    assert both["free_caption"].to_list() == [None] * 3 + free["caption"].to_list()[:3] + [None] * 6
    assert free["free_caption"].to_list() == [None] * 4


@pytest.mark.parametrize(
    "changes",
    [{"num_beams": 3}, {"length_penalty": 0.0}, {"max_new_tokens": 7}, {"grammar": True}],
)
def test_going_back_and_forth_computes_nothing(project, tmp_path, changes) -> None:
    first = captioned(project, tmp_path, settings(), trained=True)
    other = captioned(project, tmp_path, settings(**changes), trained=True)
    assert (first[1], other[1]) == (IMAGES, IMAGES)
    again = captioned(project, tmp_path, settings(), trained=True)
    assert again[1] == 0 and again[0].equals(first[0])
    back = captioned(project, tmp_path, settings(**changes), trained=True)
    assert back[1] == 0 and back[0].equals(other[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trained": True, "params": settings(grammar=True)},
        {"params": settings(num_beams=1, sampling=Sampling(temperature=1.5, top_k=0, top_p=0.9))},
    ],
)
def test_batches_workers_and_what_was_there_change_no_caption(project, tmp_path, options) -> None:
    params = options.pop("params", settings())
    expected, computed = captioned(project, tmp_path / "whole", params, **options)
    assert computed == IMAGES and expected["caption"].n_unique() > 1
    for batch_size in (1, 7, "auto"):
        some = params.model_copy(update={"batch_size": batch_size})
        half = tmp_path / str(batch_size)
        ids = random.Random(str(batch_size)).sample(IDS, 5)
        _, computed = captioned(project, half, params, ids=sorted(ids), workers=1, **options)
        assert computed == 5
        found, computed = captioned(project, half, some, **options)
        assert computed == IMAGES - 5
        assert found.equals(expected)


def test_neighbours_change_no_token(project) -> None:
    features = FeatureStore(project / "features").read(np.arange(IMAGES)).numpy()
    for params in (settings(max_new_tokens=30), settings(grammar=True)):
        worker = wanted(project, params, trained=True).start()
        prepared = [worker.prepare(CaptionInput("name", row)) for row in features]
        alone = [worker.compute([image])[0] for image in prepared]
        for seed in range(4):
            order = random.Random(seed).sample(range(IMAGES), 2 + 3 * seed)
            for row, found in zip(
                order, worker.compute([prepared[row] for row in order]), strict=True
            ):
                assert found == alone[row]


def test_only_new_photos_are_captioned(project, photos, tmp_path) -> None:
    rows = tmp_path / "rows"
    old, _ = captioned(project, rows, settings())
    grown = tmp_path / "grown"
    names = [*IN_CATALOG[:4], "new-1", "new-2", *IN_CATALOG[4:], "renamed", "new-3"]
    images = [*photos[:4], *photos[IMAGES : IMAGES + 2], *photos[4:IMAGES], photos[1], photos[-1]]
    write_project(grown, names, images)
    shutil.copytree(project / "blip2", grown / "blip2")
    found, computed = captioned(grown, rows, settings(), ids=sorted(names))
    assert computed == 3
    by_name = dict(found.select("image_id", "caption").iter_rows())
    assert {name: by_name[name] for name in IDS} == dict(
        old.select("image_id", "caption").iter_rows()
    )
    assert by_name["renamed"] == by_name[IN_CATALOG[1]]
    fresh, computed = captioned(grown, tmp_path / "fresh", settings(), ids=sorted(names))
    assert computed == IMAGES + 3 and fresh.equals(found)


def test_a_sampled_caption_is_of_its_name_too(photos, project, tmp_path) -> None:
    write_project(tmp_path, ["a", "b"], [photos[0]] * 2)
    shutil.copytree(project / "blip2", tmp_path / "blip2")
    sampling = Sampling(temperature=1.5, top_k=0, top_p=1.0)
    params = settings(num_beams=1, sampling=sampling)
    table, computed = captioned(tmp_path, tmp_path / "rows", params, ids=["a", "b"])
    assert computed == 2 and table["caption"].n_unique() == 2
    _, computed = captioned(tmp_path, tmp_path / "rows", params, ids=["a", "b"], seed=2)
    assert computed == 2
    # A search draws nothing.
    table, computed = captioned(tmp_path, tmp_path / "rows", settings(), ids=["a", "b"])
    assert computed == 1 and table["caption"].n_unique() == 1
    _, computed = captioned(tmp_path, tmp_path / "rows", settings(), ids=["a", "b"], seed=2)
    assert computed == 0


def test_photos_are_captioned_as_their_features(project, tmp_path) -> None:
    root = tmp_path / "uncached"
    shutil.copytree(project, root)
    shutil.rmtree(root / "features")
    write_uncached(root / "features")
    found, computed = captioned(root, tmp_path / "rows", settings())
    assert computed == IMAGES and found["caption"].n_unique() > 1
    assert captioned(root, tmp_path / "rows", settings(batch_size=3))[1] == 0
    assert wanted(root, settings()).identity() != wanted(project, settings()).identity()


def test_what_decides_a_caption_is_in_its_identity(project, tmp_path) -> None:
    one = wanted(project, settings(grammar=True), trained=True)
    same = replace(one, batch_size=1, seed=5, max_new_tokens=9)
    assert same.identity() == one.identity()
    assert pickle.loads(pickle.dumps(one)).identity() == one.identity()
    copy = shutil.copytree(project / "adapter", tmp_path / "adapter")
    (copy / "last").mkdir()
    (copy / "origin.json").write_text("{}")
    moved = replace(one, adapter=copy)
    assert moved.identity() == one.identity()
    # The untrained, free captions of it, and another grammar.
    others = [replace(one, adapter=None, grammar=False), replace(one, grammar=False)]
    others += [replace(others[1], max_new_tokens=9), replace(one, num_beams=4)]
    others += [replace(one, features=one.features._replace(computation="another"))]
    found = {one.identity(), *(other.identity() for other in others)}
    write_grammar([["white"]], copy)
    found.add(moved.identity())
    assert len(found) == 7
    (copy / "grammar.json").unlink()
    with pytest.raises(MissingOutputError, match=r"grammar\.json is missing.*infer\.grammar"):
        moved.identity()


def test_no_image_gives_an_empty_table(project, tmp_path) -> None:
    table, computed = captioned(project, tmp_path, settings(), ids=[])
    assert (len(table), table.columns, computed) == (
        0,
        ["image_id", "caption", "free_caption"],
        0,
    )


def test_features_of_other_photos_are_refused(project, photos, tmp_path) -> None:
    write_project(tmp_path, IN_CATALOG, photos[1 : IMAGES + 1])
    with pytest.raises(MismatchedOutputsError, match="of other photos"):
        CaptionInputs(project / "features", tmp_path / "catalog")
    path = tmp_path / "features" / "features.json"
    metadata = json.loads(path.read_text())
    del metadata["computation"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(DamagedOutputError, match="does not say what made"):
        CaptionInputs(tmp_path / "features", tmp_path / "catalog")


def test_the_batch_that_fits_is_tried_with_the_longest_captions(project, monkeypatch) -> None:
    worker = wanted(project, settings()).start()
    steps = []
    model = worker._captioner.model.language_model
    with model.register_forward_hook(lambda *_: steps.append(1)):
        worker.try_batch(3)
    assert len(steps) == settings().max_new_tokens


def test_one_model_serves_free_captions_too(project, tmp_path, monkeypatch) -> None:
    loaded = []
    real = caption_rows.load_captioner

    def counted(*arguments):
        loaded.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(caption_rows, "load_captioner", counted)
    caption_rows._merged.cache_clear()
    captioned(project, tmp_path, settings(grammar=True), trained=True, free_too=IDS)
    assert len(loaded) == 1


STAGE = """
import runpy, sys, time
from compositional_prompts.captioner import caption_rows, inference
real = caption_rows.generate_tokens
def slow(*arguments, **options):
    time.sleep({delay})
    return real(*arguments, **options)
caption_rows.generate_tokens = slow
sys.argv = [{script!r}, *{arguments!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def test_a_killed_stage_goes_on(project, project_root, tmp_path) -> None:
    params = yaml.safe_load((project_root / "params.yaml").read_text())
    params["infer"] |= settings(batch_size=1).model_dump()
    params["base"] |= {"engine": "local", "rows": {"path": "rows", "max_gib": 1.0}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    script = str(project_root / "stages" / "infer.py")
    names = {"features": "features", "catalog": "catalog", "splits": "splits.parquet"}
    arguments = [
        part
        for name, path in (names | {"blip2": "blip2"}).items()
        for part in (f"--{name}", str(project / path))
    ]
    arguments += ["--captions", "captions/base.parquet", "--metrics", "captions.json"]

    def start(delay: float) -> subprocess.Popen[bytes]:
        code = STAGE.format(delay=delay, script=script, arguments=arguments)
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)

    process = start(delay=1.0)
    row_bytes = (settings().max_new_tokens + 1) * 4
    while not any(
        path.stat().st_size > row_bytes for path in tmp_path.glob("rows/captions/*/*.rows")
    ):
        assert process.poll() is None, "the stage ended before its first captions"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    captions = tmp_path / "captions" / "base.parquet"
    assert not captions.exists()

    assert start(delay=0).wait() == 0
    timing = json.loads((tmp_path / "timing" / "infer-base.json").read_text())
    assert timing["rows"] == IMAGES and 0 < timing["computed"] < IMAGES
    expected, _ = captioned(project, tmp_path / "others", settings())
    assert pl.read_parquet(captions).equals(expected)


class CostlessWriter:
    """Writes one token of every image."""

    def prepare(self, value: CaptionInput) -> CaptionInput:
        return value

    def compute(self, prepared: list[CaptionInput]) -> np.ndarray:
        return np.ones(len(prepared), [("tokens", np.int32, (1,)), ("count", np.int32)])


def write_photos(root: Path, names: list[str]) -> CaptionInputs:
    """A catalog of which no features were made."""
    with open_shards(root / "catalog", 1) as writer:
        for name in names:
            writer.write(CatalogRow(name, name, name.encode(), name))
    write_uncached(root / "features")
    return CaptionInputs(root / "features", root / "catalog")


def test_photos_are_read_in_one_pass_over_the_catalog(project, tmp_path, monkeypatch) -> None:
    """Many are asked for in parts, each of which would open every shard."""
    passes: list[int] = []

    def counted(catalog: Path, columns: list[str], positions: np.ndarray) -> Any:
        passes.append(len(positions))
        return iterate_positions(catalog, columns, positions)

    monkeypatch.setattr(Captions, "start", lambda _: CostlessWriter())
    monkeypatch.setattr(inference, "ROWS_AT_ONCE", 64)
    monkeypatch.setattr(catalog_photos, "iterate_positions", counted)
    names = [f"image-{number:07d}" for number in range(300)]
    inputs = write_photos(tmp_path, names)
    how = replace(wanted(project, settings()), features=None)
    some = ImagesToCaption(pa.array(names[::2]), pa.array([], pa.string()))
    captions = caption_split(how, inputs, some, settings(), base_section(tmp_path / "rows"))
    assert captions.computed == 150
    assert passes == [150]


def test_captions_are_in_memory_once(project, tmp_path, monkeypatch) -> None:
    def read_tokens(_: Any, tokens: list[list[int]]) -> list[str]:
        return ["a caption of shoes " * 10 + str(number) for number in range(len(tokens))]

    monkeypatch.setattr(Captions, "start", lambda _: CostlessWriter())
    monkeypatch.setattr(inference, "read_tokens", read_tokens)
    monkeypatch.setattr(inference, "ROWS_AT_ONCE", 64)

    def peak(images: int) -> int:
        root = tmp_path / str(images)
        names = [f"image-{number:07d}" for number in range(images)]
        inputs = write_photos(root, names)
        how = replace(wanted(project, settings()), features=None)

        def written() -> int:
            everything = ImagesToCaption(pa.array(names), pa.array([], pa.string()))
            base = base_section(root / "rows")
            table, computed, _ = caption_split(how, inputs, everything, settings(), base)
            assert len(table) == images
            return computed

        assert written() == images
        tracemalloc.start()
        try:
            assert written() == 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is made once
    # Without the captions themselves, which are in Arrow's memory; names are those of the caller.
    assert (peak(3_000) - peak(1_000)) / 2_000 < 120


def test_free_captions_that_do_not_end_are_counted(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = CaptionInputs(project / "features", project / "catalog")
    images = ImagesToCaption(pa.array(IDS, pa.string()), pa.array(IDS[:5], pa.string()))
    cut = {}
    for grammar in (False, True):
        for most in (1, 90):
            params = settings(max_new_tokens=most, num_beams=1, grammar=grammar)
            how = wanted(project, params, trained=True, seed=1)
            cut[grammar, most] = caption_split(
                how, inputs, images, params, base_section(tmp_path / "rows")
            ).cut
    # By a grammar only those that are written freely beside them.
    assert cut[False, 1] > cut[True, 1] > 0
    assert cut[False, 1] >= len(IDS)
    # Progress is said as time passes: how often depends on the machine.
    (first, *_) = (message for message in caplog.messages if message.startswith("warning"))
    assert first == (
        f"warning: {cut[False, 1]} free captions did not end before 1 tokens and are cut there: "
        "raise infer.max_new_tokens."
    )
