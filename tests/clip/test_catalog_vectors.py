"""The vectors of a catalog's images and of the attribute words, as tables."""

from __future__ import annotations

import io
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from base_section import base_section
from PIL import Image
from safetensors.torch import load_file, save_file

from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.images import UndecodableImageError
from compositional_prompts.catalog.schema import CATALOG, CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.clip.catalog_vectors import ClipVectors, embed_catalog, embed_words
from compositional_prompts.clip.clip_pretraining import MICRO_CONFIG, micro_clip
from compositional_prompts.clip.embedding import embed_images, embed_texts
from compositional_prompts.clip.open_clip_model import Clip, load_clip, save_clip
from compositional_prompts.clip.vector_tables import image_embeddings, word_embeddings
from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.files.table_shards import iterate_shards
from compositional_prompts.files.tables import read_table

DIMENSION = MICRO_CONFIG["embed_dim"]
IMAGES = 7


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    directory = tmp_path_factory.mktemp("clip")
    save_clip(micro_clip(), MICRO_CONFIG, directory)
    return directory


@pytest.fixture(scope="module")
def clip(model: Path) -> Clip:
    return load_clip(model, torch.device("cpu"))


@pytest.fixture
def photos() -> dict[str, Image.Image]:
    rng = np.random.default_rng(8)
    return {
        f"shoe-{number}": Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        for number in range(IMAGES)
    }


def row(image_id: str, photo: Image.Image) -> CatalogRow:
    encoded = io.BytesIO()
    photo.save(encoded, "PNG")
    return CatalogRow(image_id, image_id, encoded.getvalue(), path=image_id)


@pytest.fixture
def catalog(photos: dict[str, Image.Image], tmp_path: Path) -> Path:
    with open_shards(tmp_path / "catalog", shard_mib=1) as shards:
        for image_id, photo in photos.items():
            shards.write(row(image_id, photo))
    return tmp_path / "catalog"


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_image_has_its_own_vector(
    batch_size: int,
    model: Path,
    clip: Clip,
    catalog: Path,
    photos: dict[str, Image.Image],
    tmp_path: Path,
) -> None:
    out = tmp_path / "embeddings" / "images"
    vectors = ClipVectors(model, "cpu", batch_size)
    assert embed_catalog(vectors, catalog, out, base_section(tmp_path / "rows")) == (IMAGES, IMAGES)
    table = pa.Table.from_batches(iterate_shards(out, image_embeddings(DIMENSION), 4))
    found = dict(zip(table["image_id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    assert set(found) == set(photos)
    for image_id, photo in photos.items():
        expected = embed_images(clip, clip.preprocess(photo)[None])[0].numpy()
        np.testing.assert_allclose(found[image_id], expected, atol=1e-5)
    assert len({tuple(vector) for vector in found.values()}) == IMAGES


def test_an_empty_catalog_is_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    pq.write_table(CATALOG.empty_table(), tmp_path / "catalog" / "part-00000.parquet")
    with pytest.raises(ValueError, match="no images to embed"):
        embed_catalog(
            ClipVectors(model, "cpu", 2),
            tmp_path / "catalog",
            tmp_path / "out",
            base_section(tmp_path / "rows"),
        )
    assert not (tmp_path / "out").exists()


def test_an_image_that_fails_leaves_no_table(
    model: Path, photos: dict[str, Image.Image], tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    with open_shards(catalog, shard_mib=1) as shards:
        for image_id, photo in photos.items():
            shards.write(row(image_id, photo))
        shards.write(CatalogRow("shoe-7", "shoe-7", b"no image", path="shoe-7"))
    out = tmp_path / "embeddings" / "images"
    with pytest.raises(UndecodableImageError, match=r"shoe-\d+: the image cannot be decoded"):
        embed_catalog(ClipVectors(model, "cpu", 2), catalog, out, base_section(tmp_path / "rows"))
    assert not list(tmp_path.glob("embeddings/*"))


def test_a_photo_whose_bytes_were_swapped_is_named(catalog: Path) -> None:
    (shard,) = sorted(catalog.iterdir())
    table = pq.read_table(shard)
    rows = table.column("image").to_pylist()
    damaged = bytearray(rows[2]["bytes"])
    damaged[60] ^= 1
    rows[2]["bytes"] = bytes(damaged)
    place = table.schema.get_field_index("image")
    field = table.schema.field(place)
    pq.write_table(table.set_column(place, field, [pa.array(rows, field.type)]), shard)
    photos = CatalogPhotos(catalog)
    assert len(list(photos.items(np.array([0, 1, 3])))) == 3
    with pytest.raises(DamagedOutputError, match=r"the photo 'shoe-2' are not"):
        list(photos.items(np.arange(IMAGES)))


def test_a_clip_with_a_weight_that_is_no_number_is_named(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "clip")
    path = tmp_path / "clip" / "open_clip_model.safetensors"
    tensors = load_file(path)
    tensors["visual.proj"][0, 0] = torch.inf
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(DamagedOutputError, match=rf"{path} is damaged \(its tensor visual\.proj"):
        load_clip(tmp_path / "clip", torch.device("cpu"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("engine", [{"workers": 1}, {"workers": 3}])
def test_a_grown_catalog_computes_what_is_new_to_the_same_bytes(
    engine: dict[str, int], model: Path, photos: dict[str, Image.Image], tmp_path: Path
) -> None:
    names = list(photos)
    random.Random(3).shuffle(names)
    catalogs = {"old": names[:4], "grown": [*names[4:], *names[:4], names[0]]}
    for name, images in catalogs.items():
        with open_shards(tmp_path / name, shard_mib=1) as shards:
            for place, image in enumerate(images):
                shards.write(row(f"{place}-{image}", photos[image]))
    vectors = ClipVectors(model, "cpu", 3)
    kept = base_section(tmp_path / "rows", **engine)
    assert embed_catalog(vectors, tmp_path / "old", tmp_path / "a", kept) == (4, 4)
    assert embed_catalog(vectors, tmp_path / "grown", tmp_path / "b", kept) == (8, IMAGES - 4)
    assert embed_catalog(vectors, tmp_path / "grown", tmp_path / "c", kept) == (8, 0)
    fresh = base_section(tmp_path / "others")
    assert embed_catalog(vectors, tmp_path / "grown", tmp_path / "d", fresh) == (8, IMAGES)
    assert files_of(tmp_path / "b") == files_of(tmp_path / "c") == files_of(tmp_path / "d")


def test_another_model_gives_other_rows(model: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    (tmp_path / "moved").mkdir()
    save_clip(micro_clip(), MICRO_CONFIG, tmp_path / "moved")
    same = ClipVectors(shutil.copytree(model, tmp_path / "copy"), "cpu", 2)
    assert same.identity() == ClipVectors(model, "cpu", 2).identity()
    assert same.identity() != ClipVectors(tmp_path / "moved", "cpu", 2).identity()


def test_words_are_embedded_in_their_template(clip: Clip, tmp_path: Path) -> None:
    attributes = {"material": ["leather", "canvas"], "color": ["red", "navy blue", "red{}"]}
    embed_words(clip, attributes, "a {} shoe", tmp_path / "words.parquet")
    table = read_table(tmp_path / "words.parquet", word_embeddings(DIMENSION))
    assert table["group"].to_pylist() == ["material"] * 2 + ["color"] * 3
    assert table["word"].to_pylist() == ["leather", "canvas", "red", "navy blue", "red{}"]
    texts = ["a leather shoe", "a canvas shoe", "a red shoe", "a navy blue shoe", "a red{} shoe"]
    expected = embed_texts(clip, texts, batch_size=1)
    np.testing.assert_allclose(
        np.array(table["embedding"].to_pylist()), expected.numpy(), atol=1e-5
    )
