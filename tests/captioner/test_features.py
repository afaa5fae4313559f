"""The frozen-feature cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compositional_prompts.captioner import features
from compositional_prompts.captioner.features import FeatureStore, write_features


def batches(sizes, width=3, seed=0):
    rng = np.random.default_rng(seed)
    start = 0
    for size in sizes:
        ids = [f"image-{number}" for number in range(start, start + size)]
        yield ids, rng.normal(size=(size, 2, width)).astype(np.float16)
        start += size


def test_every_image_is_found_in_any_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(features, "SHARD_BYTES", 100)
    written = list(batches([5, 7, 1]))
    assert write_features(iter(written), tmp_path / "features") == 13
    assert len(list((tmp_path / "features").glob("*.npy"))) > 1
    store = FeatureStore(tmp_path / "features")
    ids = [image_id for batch, _ in written for image_id in batch]
    values = torch.from_numpy(np.concatenate([array for _, array in written])).float()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    read = store.read([ids[row] for row in order.tolist()])
    assert torch.equal(read, values[order])
    assert read.dtype == torch.float32


def test_an_unknown_image_is_named(tmp_path) -> None:
    write_features(batches([2]), tmp_path / "features")
    with pytest.raises(KeyError, match="stranger"):
        FeatureStore(tmp_path / "features").read(["image-0", "stranger"])


def test_no_images_is_an_error_and_writes_nothing(tmp_path) -> None:
    with pytest.raises(ValueError, match="no images"):
        write_features(iter(()), tmp_path / "features")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing(tmp_path) -> None:
    def broken():
        yield from batches([2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(broken(), tmp_path / "features")
    assert not list(tmp_path.iterdir())
