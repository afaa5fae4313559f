"""The frozen-feature cache: its files, and reading rows of them."""

from __future__ import annotations

import json
import os
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from compositional_prompts.captioner.features import feature_shards, feature_store
from compositional_prompts.captioner.features.feature_shards import (
    cut_shards,
    save_shard,
    write_features,
    write_uncached,
)
from compositional_prompts.captioner.features.feature_store import DamagedShardError, FeatureStore
from compositional_prompts.catalog.image_join import ImageJoinError
from compositional_prompts.files.digests import file_checksum
from compositional_prompts.files.outputs import DamagedOutputError, MissingOutputError

QUERIES, WIDTH = 2, 3


def batches(sizes, dtype=torch.float16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    start = 0
    for size in sizes:
        ids = [f"image-{number}" for number in range(start, start + size)]
        yield ids, torch.randn(size, QUERIES, WIDTH, generator=generator).to(dtype)
        start += size


def written(directory, monkeypatch, sizes, dtype=torch.float16, shard_rows=4):
    """A cache of shards of at most a few rows, with what was written into it."""
    monkeypatch.setattr(
        feature_shards, "SHARD_BYTES", shard_rows * QUERIES * WIDTH * dtype.itemsize
    )
    parts = list(batches(sizes, dtype))
    assert write_features(iter(parts), directory) == sum(sizes)
    return [i for ids, _ in parts for i in ids], torch.cat([values for _, values in parts])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_image_is_found_in_any_order(tmp_path, monkeypatch, dtype) -> None:
    ids, values = written(tmp_path / "features", monkeypatch, [5, 7, 1, 9], dtype)
    store = FeatureStore(tmp_path / "features")
    assert (len(store), store.queries, store.width, store.dtype) == (22, QUERIES, WIDTH, dtype)
    generator = np.random.default_rng(3)
    for order in (np.arange(22), generator.permutation(22), generator.integers(0, 22, 60)):
        read = store.read(store.positions([ids[row] for row in order]))
        assert read.dtype == dtype
        assert torch.equal(read, values[torch.from_numpy(order)])


def test_many_neighbours_are_read_at_once(tmp_path, monkeypatch) -> None:
    _, values = written(tmp_path / "features", monkeypatch, [3000], shard_rows=2500)
    assert torch.equal(FeatureStore(tmp_path / "features").read(np.arange(3000)), values)


def test_the_files_are_plain_safetensors_with_an_index(tmp_path, monkeypatch) -> None:
    ids, values = written(tmp_path / "features", monkeypatch, [5, 4])
    names = sorted(path.name for path in (tmp_path / "features").iterdir())
    shards = [name for name in names if name.endswith(".safetensors")]
    assert names == [*shards, "features.json", "index.parquet"]
    assert shards == [f"features-{number:05d}.safetensors" for number in range(len(shards))]
    index = pl.read_parquet(tmp_path / "features" / "index.parquet")
    assert index["image_id"].to_list() == ids
    tensors = [load_file(tmp_path / "features" / shard)["features"] for shard in shards]
    assert len(shards) > 2 and max(map(len, tensors)) <= 4
    for (_, shard, row), value in zip(index.iter_rows(), values, strict=True):
        assert torch.equal(tensors[shard][row], value)
    metadata = json.loads((tmp_path / "features" / "features.json").read_text())
    assert metadata.pop("checksums") == {
        name: f"{zlib.crc32((tmp_path / 'features' / name).read_bytes()):08x}"
        for name in (*shards, "index.parquet")
    }
    assert metadata == {
        "cache": True,
        "dtype": "float16",
        "queries": QUERIES,
        "width": WIDTH,
        "images": 9,
        "computation": "given",
        "contents": "",
    }


def test_most_shards_of_a_grown_cache_are_the_old_ones(monkeypatch) -> None:
    monkeypatch.setattr(feature_shards, "SHARD_BYTES", 400)
    ids = [f"image-{number}" for number in range(2000)]
    contents = [number.to_bytes(16) for number in range(2000)]

    def shards(order: list[int]) -> set[tuple[str, ...]]:
        cut = cut_shards([ids[row] for row in order], [contents[row] for row in order], 10)
        return {tuple(shard.image_ids) for shard in cut}

    old = shards([*range(1000), *range(1020, 2000)])
    grown = shards([*range(2000)])
    assert sum(map(len, grown)) == 2000 and max(map(len, grown)) <= 40
    assert len(old & grown) > 0.95 * len(grown) > 100


def test_rows_of_a_cut_follow_one_another() -> None:
    (shard,) = cut_shards(["a", "b"], [b"1", b"2"], 10)
    assert shard == (["a", "b"], range(2))
    assert not list(cut_shards([], [], 10))


def test_threads_share_a_store(tmp_path, monkeypatch) -> None:
    _, values = written(tmp_path / "features", monkeypatch, [50])
    store = FeatureStore(tmp_path / "features")
    orders = [np.random.default_rng(seed).integers(0, 50, 30) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for order, read in zip(orders, pool.map(store.read, orders), strict=True):
            assert torch.equal(read, values[torch.from_numpy(order)])


def test_no_positions_and_one(tmp_path, monkeypatch) -> None:
    _, values = written(tmp_path / "features", monkeypatch, [1])
    store = FeatureStore(tmp_path / "features")
    assert store.read(store.positions([])).shape == (0, QUERIES, WIDTH)
    assert torch.equal(store.read(np.array([0])), values)


def test_an_unknown_image_is_named(tmp_path, monkeypatch) -> None:
    written(tmp_path / "features", monkeypatch, [2])
    with pytest.raises(ImageJoinError, match=r"index\.parquet lacks 2 of .* 'stranger':"):
        FeatureStore(tmp_path / "features").positions(["image-0", "stranger", "another"])


@pytest.mark.parametrize("position", [-1, 2])
def test_a_position_that_is_not_there_is_named(tmp_path, monkeypatch, position) -> None:
    written(tmp_path / "features", monkeypatch, [2])
    with pytest.raises(IndexError, match=f"{position}"):
        FeatureStore(tmp_path / "features").read(np.array([0, position]))


def test_no_images_is_an_error_and_writes_nothing(tmp_path) -> None:
    with pytest.raises(ValueError, match="no features"):
        write_features(iter(()), tmp_path / "features")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing(tmp_path) -> None:
    def broken():
        yield from batches([2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(broken(), tmp_path / "features")
    assert not list(tmp_path.iterdir())


def test_a_missing_cache_or_shard_is_named(tmp_path, monkeypatch) -> None:
    with pytest.raises(MissingOutputError, match=r"features\.json is missing"):
        FeatureStore(tmp_path / "features")
    written(tmp_path / "features", monkeypatch, [9])
    (tmp_path / "features" / "index.parquet").rename(tmp_path / "index.parquet")
    with pytest.raises(MissingOutputError, match=r"index\.parquet is missing"):
        FeatureStore(tmp_path / "features")
    (tmp_path / "index.parquet").rename(tmp_path / "features" / "index.parquet")
    (tmp_path / "features" / "features-00001.safetensors").unlink()
    with pytest.raises(MissingOutputError, match="features-00001"):
        FeatureStore(tmp_path / "features")


@pytest.mark.parametrize("kept", [0, 5, 30, -1])
def test_a_cut_shard_is_named(tmp_path, monkeypatch, kept) -> None:
    written(tmp_path / "features", monkeypatch, [9])
    shard = tmp_path / "features" / "features-00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:kept])
    with pytest.raises(DamagedShardError, match="features-00001") as raised:
        FeatureStore(tmp_path / "features")
    assert raised.value.paths == (shard,)


def test_a_shard_of_other_bytes_is_named(tmp_path, monkeypatch) -> None:
    written(tmp_path / "features", monkeypatch, [9])
    shard = tmp_path / "features" / "features-00000.safetensors"
    content = shard.read_bytes()
    for bad in (content.replace(b"F16", b"F99"), content.replace(b'{"feat', b'["feat')):
        assert bad != content
        shard.write_bytes(bad)
        with pytest.raises(DamagedShardError, match="features-00000"):
            FeatureStore(tmp_path / "features")


@pytest.mark.parametrize(
    "tensor", [torch.zeros(4, 6), torch.zeros(4, QUERIES, WIDTH, dtype=torch.float64)]
)
def test_a_shard_of_another_layout_is_named(tmp_path, monkeypatch, tensor) -> None:
    written(tmp_path / "features", monkeypatch, [9])
    save_file({"features": tensor}, tmp_path / "features" / "features-00001.safetensors")
    with pytest.raises(DamagedShardError, match=r"features-00001.* damaged \(features \[4, "):
        FeatureStore(tmp_path / "features")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's smaps")
def test_reading_takes_pages_of_the_files_and_no_memory_of_its_own(tmp_path, monkeypatch) -> None:
    written(tmp_path / "features", monkeypatch, [200_000], shard_rows=100_000)
    store = FeatureStore(tmp_path / "features")
    for first in range(0, 200_000, 10_000):
        store.read(np.arange(first, first + 10_000))
    found = Path("/proc/self/smaps").read_text().split("VmFlags")
    maps = [part for part in found if str(tmp_path) in part]
    sizes = {
        name: sum(int(re.search(rf"{name}: +(\d+) kB", part)[1]) for part in maps) * 1024
        for name in ("Rss", "Anonymous")
    }
    assert sizes["Rss"] >= 200_000 * QUERIES * WIDTH * 2
    assert sizes["Anonymous"] == 0


def test_a_shard_that_shrinks_while_open_is_named(tmp_path, monkeypatch) -> None:
    written(tmp_path / "features", monkeypatch, [9])
    store = FeatureStore(tmp_path / "features")
    shard = tmp_path / "features" / "features-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    store.read(np.arange(1))
    with pytest.raises(DamagedShardError, match="features-00001"):
        store.read(np.arange(9))


def test_an_index_of_other_images_is_an_error(tmp_path, monkeypatch) -> None:
    written(tmp_path / "features", monkeypatch, [9])
    index = (tmp_path / "features" / "index.parquet").read_bytes()
    written(tmp_path / "features", monkeypatch, [10])
    (tmp_path / "features" / "index.parquet").write_bytes(index)
    with pytest.raises(ValueError, match=r"10 images, index\.parquet has 9"):
        FeatureStore(tmp_path / "features")


def test_a_folder_without_a_cache_says_so(tmp_path) -> None:
    write_uncached(tmp_path / "features")
    with pytest.raises(ValueError, match=r"blip2_features\.cache"):
        FeatureStore(tmp_path / "features")


@pytest.mark.parametrize("name", ["features-00001.safetensors", "index.parquet"])
def test_swapped_bytes_are_named_by_the_file_that_has_them(tmp_path, monkeypatch, name) -> None:
    written(tmp_path / "features", monkeypatch, [9])
    path = tmp_path / "features" / name
    content = bytearray(path.read_bytes())
    place = content.index(b"image-3") if name.endswith("parquet") else len(content) - 5
    content[place], content[place + 2] = content[place + 2], content[place] ^ 1
    path.write_bytes(content)
    with pytest.raises(DamagedShardError, match=rf"{name}.* damaged \(not as its checksum"):
        FeatureStore(tmp_path / "features").read(np.arange(9))


def test_a_shard_is_checked_once_and_only_when_it_is_wanted(tmp_path, monkeypatch) -> None:
    _, values = written(tmp_path / "features", monkeypatch, [9])
    checked = []
    monkeypatch.setattr(
        feature_store,
        "file_checksum",
        lambda path: checked.append(path.name) or file_checksum(path),
    )
    store = FeatureStore(tmp_path / "features")
    for _ in range(3):
        assert torch.equal(store.read(np.array([0])), values[:1])
    assert checked == ["index.parquet", "features-00000.safetensors"]


def test_a_cache_without_checksums_is_made_again(tmp_path, monkeypatch) -> None:
    written(tmp_path / "features", monkeypatch, [9])
    path = tmp_path / "features" / "features.json"
    metadata = json.loads(path.read_text())
    del metadata["checksums"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(DamagedOutputError, match=r"features\.json has no checksums"):
        FeatureStore(tmp_path / "features")


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_are_not_kept(tmp_path, number) -> None:
    features = torch.zeros(2, QUERIES, WIDTH)
    features[1, 0, 2] = number
    with pytest.raises(ValueError, match=r"features to keep: 1 of .* NaN or infinite"):
        write_features([(["a", "b"], features)], tmp_path / "features")
    assert not list(tmp_path.iterdir())


def test_who_may_read_features_says_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_shard(torch.ones(1, 4, 32), tmp_path / "shard")
    finally:
        os.umask(before)
    assert (tmp_path / "shard").stat().st_mode & 0o777 == 0o640
