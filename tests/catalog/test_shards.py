"""The catalog written and read back: streamed, cut, by name, and refused when it is not whole."""

import io
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compositional_prompts.catalog.decoding import decoded_batches
from compositional_prompts.catalog.image_join import ImageJoinError
from compositional_prompts.catalog.images import UndecodableImageError
from compositional_prompts.catalog.random_access import CatalogImages
from compositional_prompts.catalog.reading import (
    count_rows,
    iterate_batches,
    read_images,
    read_labels,
)
from compositional_prompts.catalog.schema import CATALOG, CatalogRow
from compositional_prompts.catalog.shards import DuplicateImageError, open_shards
from compositional_prompts.catalog.splitting.corpus import write_corpus
from compositional_prompts.files.distinct import Distinct
from compositional_prompts.files.outputs import (
    DamagedOutputError,
    MissingOutputError,
)
from compositional_prompts.files.tables import SchemaError
from compositional_prompts.reporting.drawing.thumbnails import read_thumbnails


def catalog_rows(count: int, size: int = 50, seed: int = 0) -> list[CatalogRow]:
    """Rows whose images are random bytes: nothing here decodes them."""
    rng = np.random.default_rng(seed)
    return [
        CatalogRow(f"i{n}", f"p{n // 3}", rng.bytes(size), f"dir/{n}.jpg", "Red", "Shoes")
        for n in range(count)
    ]


def write(directory: Path, rows: Iterable[CatalogRow], shard_mib: int = 1) -> None:
    with open_shards(directory, shard_mib) as shards:
        for row in rows:
            shards.write(row)


def test_a_photo_that_does_not_decode_is_named(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog"
    write(catalog, catalog_rows(3))
    decoded = decoded_batches(catalog, np.asarray, batch_size=2, workers=1)
    with pytest.raises(UndecodableImageError, match=r"^i0: the image cannot be decoded \(Unid"):
        next(decoded)
    with pytest.raises(UndecodableImageError, match=r"^i2: the image cannot be decoded"):
        read_thumbnails(catalog, ["i2"])


def test_rows_come_back_in_order_with_their_bytes(tmp_path: Path) -> None:
    rows = catalog_rows(600)
    write(tmp_path / "catalog", rows)
    assert count_rows(tmp_path / "catalog") == 600
    batches = list(iterate_batches(tmp_path / "catalog", ["image", "image_id"], batch_size=70))
    assert [batch.num_rows for batch in batches] == [70] * 8 + [40]
    assert batches[0].schema.names == ["image", "image_id"]
    read = pa.Table.from_batches(batches).to_pylist()
    assert read == [
        {"image": {"bytes": row.image, "path": row.path}, "image_id": row.image_id} for row in rows
    ]


def test_shards_keep_to_their_size_and_polars_reads_them(tmp_path: Path) -> None:
    rows = catalog_rows(120, size=30_000)
    write(tmp_path / "catalog", rows)
    shards = sorted((tmp_path / "catalog").iterdir())
    assert [shard.name for shard in shards] == [f"part-{n:05d}.parquet" for n in range(len(shards))]
    assert len(shards) > 3
    assert all(shard.stat().st_size <= 2**20 for shard in shards)
    frame = pl.read_parquet(tmp_path / "catalog" / "*.parquet")
    assert frame["image_id"].to_list() == [row.image_id for row in rows]
    assert frame["image"].struct.field("bytes").to_list() == [row.image for row in rows]
    assert b"huggingface" in pq.read_schema(shards[0]).metadata


def shard_bytes(directory: Path) -> dict[bytes, int]:
    return {shard.read_bytes(): shard.stat().st_size for shard in directory.iterdir()}


def share_kept(old: Path, new: Path) -> float:
    """Of the bytes of ``new``, those in files that ``old`` has too, whatever they are called."""
    found = shard_bytes(new)
    kept = found.keys() & shard_bytes(old).keys()
    return sum(found[content] for content in kept) / sum(found.values())


def test_one_percent_more_rows_in_one_place_leave_nine_tenths_of_the_bytes(tmp_path: Path) -> None:
    rows = catalog_rows(3000, size=4000)
    new = catalog_rows(30, size=4000, seed=1)
    new = [row._replace(image_id=f"new{n}", path=f"new/{n}") for n, row in enumerate(new)]
    write(tmp_path / "old", rows)
    write(tmp_path / "more", [*rows[:1700], *new, *rows[1700:]])
    write(tmp_path / "fewer", [*rows[:1700], *rows[1730:]])
    write(tmp_path / "again", iter(rows))
    assert share_kept(tmp_path / "old", tmp_path / "more") > 0.9
    assert share_kept(tmp_path / "old", tmp_path / "fewer") > 0.9
    assert share_kept(tmp_path / "old", tmp_path / "again") == 1


def test_shards_of_one_photo_under_many_names_are_cut_alike(tmp_path: Path) -> None:
    (row,) = catalog_rows(1, size=4000)
    rows = [row._replace(image_id=f"i{n}", path=f"{n}.jpg") for n in range(3000)]
    write(tmp_path / "old", rows)
    write(tmp_path / "more", [*rows[:900], row._replace(image_id="new"), *rows[900:]])
    assert len(list((tmp_path / "old").iterdir())) > 20
    assert share_kept(tmp_path / "old", tmp_path / "more") > 0.9


def test_of_photos_the_file_holds_neither_statistics_nor_dictionaries(tmp_path: Path) -> None:
    write(tmp_path / "catalog", catalog_rows(3))
    (shard,) = (tmp_path / "catalog").iterdir()
    group = pq.read_metadata(shard).row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    for photo in ("image.bytes", "image.path"):
        assert columns[photo].statistics is None
        assert not columns[photo].has_dictionary_page
    assert columns["image_id"].statistics.max == "i2"


def test_an_image_larger_than_a_shard_has_its_own(tmp_path: Path) -> None:
    rows = catalog_rows(3)
    rows[1] = rows[1]._replace(image=np.random.default_rng(1).bytes(2 * 2**20))
    write(tmp_path / "catalog", rows)
    sizes = [pq.read_metadata(shard).num_rows for shard in sorted((tmp_path / "catalog").iterdir())]
    assert sizes == [1, 1, 1]


@pytest.mark.parametrize(
    "rows", [range(0, 600), range(0, 0), range(255, 257), range(300, 301), range(13, 599)]
)
def test_a_range_of_rows(tmp_path: Path, rows: range) -> None:
    write(tmp_path / "catalog", catalog_rows(600))
    batches = list(iterate_batches(tmp_path / "catalog", ["image_id"], rows, 64))
    read = [image_id for batch in batches for image_id in batch.column(0).to_pylist()]
    assert read == [f"i{n}" for n in rows]
    assert all(batch.num_rows == 64 for batch in batches[:-1])


def test_row_groups_outside_the_range_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "catalog", catalog_rows(600))
    (shard,) = (tmp_path / "catalog").iterdir()
    group = pq.read_metadata(shard).row_group(0)
    content = bytearray(shard.read_bytes())
    for column in range(group.num_columns):
        chunk = group.column(column)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    shard.write_bytes(content)
    after = range(group.num_rows, 600)
    columns = ["image_id", "image"]
    assert sum(b.num_rows for b in iterate_batches(tmp_path / "catalog", columns, after)) == len(
        after
    )
    with pytest.raises(DamagedOutputError, match=shard.name):
        list(iterate_batches(tmp_path / "catalog", columns))


def photo_rows(count: int) -> list[CatalogRow]:
    """Rows of images that decode, told apart by their colour."""
    rows = []
    for number, row in enumerate(catalog_rows(count)):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 3), (number, 0, 0)).save(buffer, "PNG")
        rows.append(row._replace(image=buffer.getvalue()))
    return rows


def test_the_hub_s_library_reads_photos_as_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so only where the column is declared to the letter as its own would be."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    rows = photo_rows(5)
    write(tmp_path / "catalog", [row._replace(title="a shoe") for row in rows])
    splits = {"caption_split": ["train"] * 5, "pair_split": ["train"] * 5}
    table = pa.table({"image_id": [row.image_id for row in rows], **splits})
    write_corpus(tmp_path / "catalog", table, tmp_path / "corpus.parquet")
    for files in ("catalog/*.parquet", "corpus.parquet"):
        found = datasets.load_dataset(
            "parquet",
            data_files=str(tmp_path / files),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        assert isinstance(found.features["image"], datasets.Image), files
        assert [image.getpixel((0, 0)) for image in found["image"]] == [(n, 0, 0) for n in range(5)]


def test_a_catalog_that_another_tool_wrote_again_is_read_as_before(tmp_path: Path) -> None:
    directory = tmp_path / "catalog"
    rows = catalog_rows(600)
    write(directory, rows)
    labels, batches = read_labels(directory), list(iterate_batches(directory, ["image", "title"]))
    (shard,) = directory.iterdir()
    frame = pl.read_parquet(shard).with_columns(pl.col("attribute").cast(pl.Categorical))
    frame.with_columns(pl.lit(None).alias("title")).write_parquet(shard, row_group_size=100)
    assert pq.read_schema(shard).types != CATALOG.types
    assert read_labels(directory) == labels
    assert pa.Table.from_batches(iterate_batches(directory, ["image", "title"])) == (
        pa.Table.from_batches(batches)
    )
    images = read_images(directory, ["i599", "i3"])["image"].to_pylist()
    assert [image["bytes"] for image in images] == [rows[599].image, rows[3].image]
    assert CatalogImages(directory).read(np.array([250, 7])) == [rows[250].image, rows[7].image]


def test_a_row_without_its_image_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "catalog"
    write(directory, catalog_rows(600))
    (shard,) = directory.iterdir()
    frame = pl.read_parquet(shard)
    lost = pl.when(pl.col("image_id") != "i321").then("image")
    frame.with_columns(lost).write_parquet(shard, row_group_size=100)
    message = r"part-00000\.parquet: column 'image' is null in row 321"
    assert sum(b.num_rows for b in iterate_batches(directory, ["image"], range(300))) == 300
    for rows in (None, range(320, 330)):
        with pytest.raises(SchemaError, match=message):
            list(iterate_batches(directory, ["image"], rows, 7))
    with pytest.raises(SchemaError, match=message):
        read_images(directory, ["i322"])
    with pytest.raises(SchemaError, match=message):
        CatalogImages(directory).read(np.array([322]))


@pytest.mark.parametrize("rows", [range(0, 11), range(0, 10, 2), range(-1, 5)])
def test_a_range_outside_the_catalog_is_refused(tmp_path: Path, rows: range) -> None:
    write(tmp_path / "catalog", catalog_rows(10))
    with pytest.raises(ValueError, match="10 rows"):
        iterate_batches(tmp_path / "catalog", ["image_id"], rows)


def test_labels_and_images_by_name(tmp_path: Path) -> None:
    rows = catalog_rows(600)
    write(tmp_path / "catalog", rows)
    labels = read_labels(tmp_path / "catalog", ["product_id", "image_id"])
    assert labels.to_pylist()[599] == {"product_id": "p199", "image_id": "i599"}
    assert "image" not in read_labels(tmp_path / "catalog").column_names
    wanted = ["i599", "i0", "i300", "i0"]
    images = read_images(tmp_path / "catalog", wanted).to_pylist()
    assert [row["image_id"] for row in images] == wanted
    assert [row["image"]["bytes"] for row in images] == [rows[int(i[1:])].image for i in wanted]
    assert read_images(tmp_path / "catalog", []).num_rows == 0


def test_unknown_names_are_told(tmp_path: Path) -> None:
    write(tmp_path / "catalog", catalog_rows(3))
    with pytest.raises(
        ImageJoinError, match=r"catalog lacks 2 of the images asked for, the first 'x'"
    ):
        read_images(tmp_path / "catalog", ["x", "i1", "y", "x"])
    with pytest.raises(SchemaError, match="no column 'colour'"):
        iterate_batches(tmp_path / "catalog", ["colour"])
    with pytest.raises(ValueError, match="reads no images"):
        read_labels(tmp_path / "catalog", ["image"])
    with pytest.raises(ValueError, match="batch_size"):
        iterate_batches(tmp_path / "catalog", ["image_id"], batch_size=0)


def test_a_catalog_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingOutputError, match="catalog is missing"):
        count_rows(tmp_path / "catalog")
    (tmp_path / "catalog").mkdir()
    with pytest.raises(DamagedOutputError, match="no Parquet shard"):
        iterate_batches(tmp_path / "catalog", ["image_id"])


def test_a_foreign_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path / "catalog", catalog_rows(3))
    pq.write_table(pa.table({"image_id": ["x"]}), tmp_path / "catalog" / "zzz.parquet")
    with pytest.raises(SchemaError, match=r"zzz\.parquet: column 'product_id' is missing"):
        list(iterate_batches(tmp_path / "catalog", ["image_id"]))


def test_a_duplicate_image_id_names_both_places_and_leaves_the_old_catalog(tmp_path: Path) -> None:
    write(tmp_path / "catalog", catalog_rows(2))
    rows = catalog_rows(300, seed=1)
    with pytest.raises(DuplicateImageError, match=r"'i5' occurs twice: 'dir/5.jpg' and 'other"):
        write(tmp_path / "catalog", [*rows, rows[5]._replace(path="other/5.jpg")])
    assert count_rows(tmp_path / "catalog") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["catalog"]


def test_a_duplicate_is_found_in_a_shard_that_is_closed(tmp_path: Path) -> None:
    rows = catalog_rows(200, size=30_000)
    with pytest.raises(DuplicateImageError, match=r"'i5' occurs twice: 'dir/5.jpg' and 'other"):
        write(tmp_path / "catalog", [*rows, rows[5]._replace(path="other/5.jpg")])


def test_ids_whose_digests_are_equal_by_chance_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Distinct.add
    monkeypatch.setattr(Distinct, "add", lambda self, value: add(self, value[:2]))
    rows = catalog_rows(15)
    write(tmp_path / "catalog", rows)
    read = read_labels(tmp_path / "catalog", ["image_id"])["image_id"].to_pylist()
    assert read == [row.image_id for row in rows]
    with pytest.raises(DuplicateImageError, match="'i12' occurs twice"):
        write(tmp_path / "catalog", [*rows, rows[12]])


def test_rows_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    (row,) = catalog_rows(1)
    for broken, message in (
        (row._replace(image=None), "no bytes"),
        (row._replace(object=None), "has no object beside it"),
    ):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "catalog", [broken])
    with pytest.raises(SchemaError, match="'product_id' is null in row 0"):
        write(tmp_path / "catalog", [row._replace(product_id=None)])  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_catalog_rows_have_the_columns_of_the_schema() -> None:
    assert set(CatalogRow._fields) == {*CATALOG.names, "path", "truth", "rejection"} - {"content"}
