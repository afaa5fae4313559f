"""The frozen half over a catalog: its values, its equality with the whole model, being killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from micro_blip2 import QUERIES, WORDS, miniature, save
from small_catalog import write_catalog

from compositional_prompts.captioner.features import extraction
from compositional_prompts.captioner.features.extraction import compute_features
from compositional_prompts.captioner.features.feature_store import FeatureStore
from compositional_prompts.captioner.features.pixel_inputs import PixelInputs
from compositional_prompts.captioner.model.blip2_model import Captioner, load_captioner
from compositional_prompts.captioner.model.caption_tokens import tokenize_captions
from compositional_prompts.captioner.model.forward import caption_logits, caption_loss, queries_of
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.shards import open_shards

IMAGES = 30


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    directory = tmp_path_factory.mktemp("extraction") / "catalog"
    return directory, write_catalog(directory, IMAGES, seed=5)


def computed(captioner: Captioner, catalog: Path, folder: Path, **options) -> FeatureStore:
    """Features in ``folder/features``, by way of ``folder/scratch``."""
    arguments = {"dtype": torch.float32, "batch_size": 4, "workers": 2, "shard_rows": 8} | options
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    out = folder / "features"
    compute_features(captioner, catalog, out, scratch=folder / "scratch", **arguments)
    return FeatureStore(out)


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
def test_unrounded_features_change_nothing(tmp_path, catalog, family) -> None:
    directory, encoded = catalog
    captioner = miniature(family)
    store = computed(captioner, directory, tmp_path)
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
    tmp_path, catalog, dtype, tolerance
) -> None:
    directory, encoded = catalog
    captioner = miniature()
    store = computed(captioner, directory, tmp_path, dtype=dtype)
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


def test_every_image_has_its_own_features_whatever_the_batches(tmp_path, catalog) -> None:
    directory, encoded = catalog
    captioner = miniature()
    names = list(encoded)
    pixels = [captioner.preprocess(decode_rgb(encoded[name])) for name in names]
    with torch.inference_mode():
        alone = torch.cat([queries_of(captioner.model, image[None]) for image in pixels])
    for batch_size, shard_rows in ((1, 7), (4, 8), (64, 64)):
        folder = tmp_path / str(batch_size)
        store = computed(captioner, directory, folder, batch_size=batch_size, shard_rows=shard_rows)
        read = store.read(store.positions(names))
        torch.testing.assert_close(read, alone, rtol=1e-4, atol=1e-5)


def test_the_frozen_half_alone_is_enough_at_any_precision(tmp_path, catalog) -> None:
    directory, _ = catalog
    captioner = miniature()
    save(captioner, tmp_path / "blip2")
    exact = computed(captioner, directory, tmp_path / "exact").read(np.arange(IMAGES))
    for precision, tolerance in (("float32", 1e-5), ("float16", 0.02), ("bfloat16", 0.1)):
        half = load_captioner(tmp_path / "blip2", torch.device("cpu"), precision, half="frozen")
        assert not hasattr(half.model, "language_model")
        read = computed(half, directory, tmp_path / precision).read(np.arange(IMAGES))
        assert float((read - exact).abs().max()) < tolerance * float(exact.std())


def test_finished_shards_are_not_computed_again(tmp_path, catalog, monkeypatch) -> None:
    directory, _ = catalog
    captioner = miniature()
    computed(captioner, directory, tmp_path / "undisturbed")
    real = extraction.query_features
    seen: list[int] = []

    def counted(model, pixel_values):
        seen.append(len(pixel_values))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return real(model, pixel_values)

    monkeypatch.setattr(extraction, "query_features", counted)
    with pytest.raises(KeyboardInterrupt):
        computed(captioner, directory, tmp_path / "killed")
    assert not (tmp_path / "killed" / "features").exists()
    seen[:] = [0] * 10
    computed(captioner, directory, tmp_path / "killed")
    assert sum(seen[10:]) == IMAGES - 2 * 8
    assert contents(tmp_path / "killed" / "features") == contents(
        tmp_path / "undisturbed" / "features"
    )
    # Killed between the last shard and the end of the stage: nothing is left to compute.
    seen[:] = [0] * 10
    computed(captioner, directory, tmp_path / "killed")
    assert not seen[10:]


def test_the_batch_size_that_was_found_stays(tmp_path, catalog, monkeypatch) -> None:
    directory, _ = catalog
    captioner = miniature()
    found = []

    def chosen(run, device, *, upper):
        run(2)
        found.append(upper)
        return 4

    monkeypatch.setattr(extraction, "automatic_batch_size", chosen)
    for _ in range(2):
        computed(captioner, directory, tmp_path / "auto", batch_size="auto")
    assert found == [extraction.LARGEST_AUTO]
    computed(captioner, directory, tmp_path / "given")
    assert contents(tmp_path / "auto" / "features") == contents(tmp_path / "given" / "features")


def test_a_feature_beyond_the_dtype_is_an_error(tmp_path, catalog) -> None:
    directory, _ = catalog
    captioner = miniature()
    with torch.no_grad():
        captioner.model.qformer.encoder.layer[-1].output_query.LayerNorm.weight.mul_(1e6)
    with pytest.raises(OverflowError, match=r"image-0000\.png.*dtype to bfloat16"):
        computed(captioner, directory, tmp_path, dtype=torch.float16)
    assert not (tmp_path / "features").exists()
    computed(captioner, directory, tmp_path, dtype=torch.bfloat16)


def test_an_empty_catalog_is_an_error(tmp_path) -> None:
    with open_shards(tmp_path / "catalog", 1):
        pass
    with pytest.raises((ValueError, FileNotFoundError), match="catalog"):
        computed(miniature(), tmp_path / "catalog", tmp_path)


STAGE = """
import runpy, sys, time
from compositional_prompts.captioner.features import extraction, feature_store as features
features.SHARD_BYTES = 16 * {row_bytes}
real = extraction.query_features
def slow(model, pixel_values):
    time.sleep({delay})
    return real(model, pixel_values)
extraction.query_features = slow
sys.argv = [{script!r}, *{arguments!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def test_killed_and_rerun_ends_with_the_same_bytes(tmp_path, project_root) -> None:
    """``kill -9`` of the real stage at a random moment after its first shard."""
    images = 100
    write_catalog(tmp_path / "catalog", images, seed=9)
    captioner = miniature()
    save(captioner, tmp_path / "blip2")
    params = yaml.safe_load((project_root / "params.yaml").read_text())
    params["blip2_features"] |= {"batch_size": 8, "dtype": "bfloat16", "precision": "float32"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    row_bytes = captioner.model.query_tokens[0].numel() * 2
    arguments = ["--catalog", "catalog", "--blip2", "blip2", "--features", "data/features"]

    def start(delay: float) -> subprocess.Popen[bytes]:
        script = str(project_root / "stages" / "blip2_features.py")
        code = STAGE.format(row_bytes=row_bytes, delay=delay, script=script, arguments=arguments)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)

    def finished() -> dict[str, tuple[int, int]]:
        shards = (tmp_path / "scratch").glob("blip2_features/*/features-*.safetensors")
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shards}

    process = start(delay=0.1)
    while not finished():
        assert process.poll() is None, "the stage ended before its first shard"
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.6))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = finished()
    assert 1 <= len(kept) < 7
    assert not (tmp_path / "data").exists()

    assert start(delay=0).wait() == 0
    assert not (tmp_path / "scratch" / "blip2_features").exists()
    assert json.loads((tmp_path / "timing/blip2_features.json").read_text())["rows"] == images
    for name, (inode, changed) in kept.items():
        status = (tmp_path / "data" / "features" / name).stat()
        assert (status.st_ino, status.st_mtime_ns) == (inode, changed)

    undisturbed = computed(
        captioner,
        tmp_path / "catalog",
        tmp_path / "undisturbed",
        dtype=torch.bfloat16,
        batch_size=8,
        shard_rows=16,
    )
    assert contents(tmp_path / "data" / "features") == contents(
        tmp_path / "undisturbed" / "features"
    )
    assert undisturbed.read(np.arange(images)).shape == (images, QUERIES, 32)
