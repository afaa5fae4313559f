"""The frozen half over a catalog: its values, its equality with the whole model, being killed."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from base_section import base_section
from micro_blip2 import QUERIES, WORDS, miniature, save
from small_catalog import write_catalog

from compositional_prompts.captioner.features import feature_shards, frozen_features
from compositional_prompts.captioner.features.extraction import extract_features
from compositional_prompts.captioner.features.extraction import (
    frozen_features as frozen_features_of,
)
from compositional_prompts.captioner.features.feature_store import FeatureStore
from compositional_prompts.captioner.features.frozen_features import FrozenFeatures, NamedPhoto
from compositional_prompts.captioner.features.pixel_inputs import PixelInputs
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.caption_tokens import tokenize_captions
from compositional_prompts.captioner.model.forward import caption_logits, caption_loss, queries_of
from compositional_prompts.captioner.model.half_digest import half_digest
from compositional_prompts.captioner.parameters import Blip2Features
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.schema import CATALOG, CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.compute.precision import resolve_precision
from compositional_prompts.compute.rows.computation import CPU_BATCH
from compositional_prompts.pipeline.section import Base

IMAGES = 30


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    directory = tmp_path_factory.mktemp("extraction") / "catalog"
    return directory, write_catalog(directory, IMAGES, seed=5)


def frozen(blip2: Path, **changes: Any) -> FrozenFeatures:
    """The computation, in batches of four."""
    precision = resolve_precision(changes.pop("precision", "float32"), torch.device("cpu"))
    values = {"device": "cpu", "dtype": "float32", "batch_size": 4} | changes
    return FrozenFeatures(blip2=blip2, precision=precision, **values)


def computed(blip2: Path, catalog: Path, folder: Path, **changes: Any) -> FeatureStore:
    """Features in ``folder/features``, with a row store of their own."""
    base = base_section(folder / "rows")
    extract_features(frozen(blip2, **changes), catalog, folder / "features", base)
    return FeatureStore(folder / "features")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both families of miniatures, saved."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("opt", "t5"):
        save(miniature(family), folder / family)
    return {family: folder / family for family in ("opt", "t5")}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def whole_model(captioner: Captioner, pixel_values: torch.Tensor, captions: list[str]):
    """transformers' own forward: Q-Former output, and the loss of the captions."""
    tokens = tokenize_captions(captioner, captions, max_tokens=60)
    placeholders = torch.full((len(captions), QUERIES), captioner.model.config.image_token_index)
    if captioner.begin_of_text:
        ids = torch.cat([placeholders, tokens.ids], dim=1)
        attention = torch.cat([torch.ones_like(placeholders), tokens.mask], dim=1)
        labels = ids.masked_fill(attention == 0, -100)
        labels[:, : QUERIES + 1] = -100
        inputs = {"input_ids": ids, "attention_mask": attention, "labels": labels}
    else:
        labels = tokens.ids.masked_fill(tokens.mask == 0, -100)
        inputs = {"input_ids": placeholders, "labels": labels}
    with torch.inference_mode():
        output = captioner.model(pixel_values=pixel_values, **inputs)
    return output.qformer_outputs.last_hidden_state, output.loss


def our_loss(captioner: Captioner, inputs: torch.Tensor, captions: list[str]) -> torch.Tensor:
    tokens = tokenize_captions(captioner, captions, max_tokens=60)
    with torch.inference_mode():
        return caption_loss(
            *caption_logits(captioner.model, queries_of(captioner.model, inputs).float(), tokens)
        )


def generated(captioner: Captioner, inputs: torch.Tensor) -> torch.Tensor:
    """Greedy tokens by transformers' own generation, from query features or pixels."""
    model = captioner.model
    with torch.inference_mode():
        embeds = model.language_projection(queries_of(model, inputs).float())
        if captioner.begin_of_text:
            start = model.get_input_embeddings()(torch.tensor(captioner.begin_of_text))
            embeds = torch.cat([embeds, start.expand(len(embeds), -1, -1)], dim=1)
        return model.language_model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
        )


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_unrounded_features_change_nothing(tmp_path, catalog, models, family) -> None:
    directory, encoded = catalog
    captioner = miniature(family)
    store = computed(models[family], directory, tmp_path)
    names = list(encoded)[12:16]  # a batch of the extraction, so that sums are taken alike
    uncached = PixelInputs(directory, captioner.preprocess, workers=1, augment=False, seed=0)
    pixel_values = uncached.read(uncached.positions(names))
    features = store.read(store.positions(names))
    captions = [*WORDS, WORDS[0]]

    theirs, loss = whole_model(captioner, pixel_values, captions)
    assert torch.equal(features, theirs)
    assert torch.equal(
        our_loss(captioner, features, captions), our_loss(captioner, pixel_values, captions)
    )
    torch.testing.assert_close(our_loss(captioner, features, captions), loss, rtol=1e-6, atol=1e-6)
    assert torch.equal(generated(captioner, features), generated(captioner, pixel_values))


# Rounding is by at most 2**-11 of a feature in float16 and 2**-8 in bfloat16. A loss moves by less,
# since roundings of many features cancel.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-4), (torch.bfloat16, 2e-3)])
def test_rounded_features_change_the_loss_by_their_rounding(
    tmp_path, catalog, models, dtype, tolerance
) -> None:
    directory, encoded = catalog
    captioner = miniature()
    name = str(dtype).removeprefix("torch.")
    store = computed(models["opt"], directory, tmp_path, dtype=name)
    assert store.dtype == dtype
    names = list(encoded)
    uncached = PixelInputs(directory, captioner.preprocess, workers=1, augment=False, seed=0)
    pixel_values = uncached.read(uncached.positions(names))
    features = store.read(store.positions(names))
    captions = WORDS * (IMAGES // 3)

    exact, loss = whole_model(captioner, pixel_values, captions)
    step = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(features.float(), exact, rtol=1.01 * step, atol=1e-5)
    assert not torch.equal(features.float(), exact)
    torch.testing.assert_close(
        our_loss(captioner, features, captions), loss, rtol=tolerance, atol=0
    )
    if dtype == torch.float16:
        assert torch.equal(generated(captioner, features), generated(captioner, pixel_values))


def test_every_image_has_its_own_features_whatever_the_batches(tmp_path, catalog, models) -> None:
    directory, encoded = catalog
    captioner = miniature()
    names = list(encoded)
    pixels = [captioner.preprocess(decode_rgb(encoded[name])) for name in names]
    with torch.inference_mode():
        alone = torch.cat([queries_of(captioner.model, image[None]) for image in pixels])
    for batch_size in (1, 4, 64):
        folder = tmp_path / str(batch_size)
        store = computed(models["opt"], directory, folder, batch_size=batch_size)
        read = store.read(store.positions(names))
        torch.testing.assert_close(read, alone, rtol=1e-4, atol=1e-5)


def test_neighbours_and_places_change_no_bit(catalog, models) -> None:
    _, encoded = catalog
    worker = frozen(models["opt"]).start()
    prepared = [worker.prepare(NamedPhoto(*named)) for named in encoded.items()]
    expected = worker.compute(prepared[:8])
    generator = random.Random(6)
    for _ in range(5):
        others = [*range(IMAGES)]
        generator.shuffle(others)
        found = worker.compute([prepared[row] for row in others[:8]])
        for place, row in enumerate(others[:8]):
            if row < 8:
                assert found[place].tobytes() == expected[row].tobytes()


def test_the_frozen_half_alone_is_enough_at_any_precision(tmp_path, catalog, models) -> None:
    directory, _ = catalog
    exact = computed(models["opt"], directory, tmp_path / "exact").read(np.arange(IMAGES))
    for precision, tolerance in (("float16", 0.02), ("bfloat16", 0.1)):
        folder = tmp_path / precision
        found = computed(models["opt"], directory, folder, precision=precision)
        read = found.read(np.arange(IMAGES))
        assert 0 < float((read - exact).abs().max()) < tolerance * float(exact.std())


def test_the_language_model_does_not_decide_features(tmp_path, models) -> None:
    blip2 = tmp_path / "blip2"
    shutil.copytree(models["opt"], blip2)
    known = frozen(models["opt"]).identity()
    assert frozen(blip2).identity() == known
    assert pickle.loads(pickle.dumps(frozen(blip2))).identity() == known
    assert frozen(blip2, dtype="float16").identity() != known
    assert frozen(blip2, precision="bfloat16").identity() != known
    captioner = miniature()
    with torch.no_grad():
        captioner.model.language_projection.weight.add_(1)
    save(captioner, blip2)
    assert frozen(blip2).identity() == known
    assert half_digest(blip2, "language") != half_digest(models["opt"], "language")
    with torch.no_grad():
        captioner.model.query_tokens.add_(1)
    captioner.model.save_pretrained(blip2, max_shard_size="100KB")
    (blip2 / "model.safetensors").unlink()
    assert half_digest(blip2, "language") != half_digest(models["opt"], "language")
    assert frozen(blip2).identity() != known


def small_shards(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Let at most six images fill a shard."""
    row_bytes = miniature().model.query_tokens[0].numel() * dtype.itemsize
    monkeypatch.setattr(feature_shards, "SHARD_BYTES", 6 * row_bytes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_grown_catalog_computes_what_is_new_to_the_same_bytes(
    tmp_path, models, monkeypatch, dtype
) -> None:
    small_shards(monkeypatch, dtype)
    encoded = write_catalog(tmp_path / "old", IMAGES, seed=5)
    names = list(encoded)
    added = list(write_catalog(tmp_path / "others", 4, seed=6).items())
    rows = [(name, encoded[name]) for name in names]
    # New photos in the middle, and one that was there under another name.
    rows[10:10] = [(f"new-{name}", image) for name, image in added]
    rows.append(("twice.png", encoded[names[2]]))
    with open_shards(tmp_path / "grown", 1) as writer:
        for image_id, image in rows:
            writer.write(CatalogRow(image_id, image_id, image, image_id))

    computation = frozen(models["opt"], dtype=str(dtype).removeprefix("torch."))
    base = base_section(tmp_path / "rows")

    def run(catalog: str, out: str, where: Base = base) -> int:
        images, new = extract_features(computation, tmp_path / catalog, tmp_path / out, where)
        assert images == len(FeatureStore(tmp_path / out))
        return new

    assert run("old", "a") == IMAGES
    assert run("grown", "b") == 4
    assert run("grown", "c") == 0
    assert run("grown", "d", base_section(tmp_path / "fresh", workers=1)) == IMAGES + 4
    for name in "cd":
        assert contents(tmp_path / name) == contents(tmp_path / "b")
    old, grown = contents(tmp_path / "a"), contents(tmp_path / "b")
    shared = {*old.values()} & {*grown.values()}
    assert len(shared) >= len(grown) // 2 > 2
    # Rows that outputs hold lie nowhere else.
    inodes = {path.stat().st_ino for path in tmp_path.glob("[abc]/features-*")}
    own = [
        path
        for path in (tmp_path / "rows").rglob("*")
        if path.is_file() and path.stat().st_ino not in inodes
    ]
    row_bytes = miniature().model.query_tokens[0].numel() * dtype.itemsize
    assert not any(path.stat().st_size > 2 * row_bytes for path in own if path.suffix == ".rows")
    linked = {path.stat().st_ino for path in (tmp_path / "rows").rglob("*")}
    assert {path.stat().st_ino for path in tmp_path.glob("b/features-*")} <= linked
    assert {path.stat().st_ino for path in tmp_path.glob("c/features-*")} <= linked


def test_what_was_computed_before_an_error_is_kept(tmp_path, catalog, models, monkeypatch) -> None:
    directory, _ = catalog
    base = base_section(tmp_path / "rows")
    computation = frozen(models["opt"])
    real = frozen_features.query_features
    seen: list[int] = []

    def counted(model, pixel_values):
        seen.append(len(pixel_values))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return real(model, pixel_values)

    monkeypatch.setattr(frozen_features, "query_features", counted)
    with pytest.raises(KeyboardInterrupt):
        extract_features(computation, directory, tmp_path / "features", base)
    assert not (tmp_path / "features").exists()
    assert extract_features(computation, directory, tmp_path / "features", base) == (
        IMAGES,
        IMAGES - 4 * 4,
    )
    computed(models["opt"], directory, tmp_path / "undisturbed")
    assert contents(tmp_path / "features") == contents(tmp_path / "undisturbed" / "features")


def test_batch_sizes_of_a_cpu_give_the_same_computation(models) -> None:
    params = Blip2Features(cache=True, precision="float32", dtype="float16", batch_size=64)
    device = torch.device("cpu")
    precision = resolve_precision("float32", device)
    identities = {
        frozen_features_of(
            models["opt"], params.model_copy(update={"batch_size": size}), device, precision
        ).identity()
        for size in ("auto", CPU_BATCH, 64, 1000)
    }
    assert len(identities) == 1


def test_a_feature_beyond_the_dtype_is_an_error(tmp_path, catalog) -> None:
    directory, _ = catalog
    captioner = miniature()
    with torch.no_grad():
        captioner.model.qformer.encoder.layer[-1].output_query.LayerNorm.weight.mul_(1e6)
    save(captioner, tmp_path / "blip2")
    with pytest.raises(OverflowError, match=r"image-0000\.png.*dtype to bfloat16"):
        computed(tmp_path / "blip2", directory, tmp_path, dtype="float16")
    assert not (tmp_path / "features").exists()
    computed(tmp_path / "blip2", directory, tmp_path, dtype="bfloat16")


def test_an_empty_catalog_is_an_error(tmp_path, models) -> None:
    (tmp_path / "catalog").mkdir()
    pq.write_table(CATALOG.empty_table(), tmp_path / "catalog" / "part-00000.parquet")
    with pytest.raises(ValueError, match="no images to compute features of"):
        computed(models["opt"], tmp_path / "catalog", tmp_path)
    assert not (tmp_path / "features").exists()


STAGE = """
import runpy, sys, time
from compositional_prompts.captioner.features import frozen_features
real = frozen_features.query_features
def slow(model, pixel_values):
    time.sleep({delay})
    return real(model, pixel_values)
frozen_features.query_features = slow
sys.argv = [{script!r}, *{arguments!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def test_killed_and_rerun_ends_with_the_same_bytes(tmp_path, models, project_root) -> None:
    """``kill -9`` of the real stage at a random moment after its first rows were confirmed."""
    images = 100
    write_catalog(tmp_path / "catalog", images, seed=9)
    params = yaml.safe_load((project_root / "params.yaml").read_text())
    params["blip2_features"] |= {"batch_size": 4, "dtype": "bfloat16", "precision": "float32"}
    params["base"] |= {"engine": "local", "rows": {"path": "rows", "max_gib": 1.0}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    arguments = ["--catalog", "catalog", "--blip2", str(models["opt"]), "--features", "features"]

    def start(delay: float) -> subprocess.Popen[bytes]:
        script = str(project_root / "stages" / "blip2_features.py")
        code = STAGE.format(delay=delay, script=script, arguments=arguments)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)

    process = start(delay=0.25)
    kept = tmp_path / "rows"
    while sum(path.stat().st_size for path in kept.rglob("*") if path.is_file()) < 4096:
        assert process.poll() is None, "the stage ended before its first rows"
        time.sleep(0.05)
    time.sleep(random.uniform(0, 0.6))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "features").exists()

    assert start(delay=0).wait() == 0
    timing = json.loads((tmp_path / "timing/blip2_features.json").read_text())
    assert timing["rows"] == images
    assert 0 < timing["computed"] < images
    undisturbed = tmp_path / "undisturbed"
    computed(models["opt"], tmp_path / "catalog", undisturbed, dtype="bfloat16")
    assert contents(tmp_path / "features") == contents(undisturbed / "features")


def test_what_quantizes_decides_features(models: dict[str, Path]) -> None:
    assert "bitsandbytes" not in frozen(models["opt"]).description()["libraries"]
    assert "bitsandbytes" in frozen(models["opt"], precision="int4").description()["libraries"]
