"""Samples in tars: what the library and img2dataset write, and what strangers do."""

from __future__ import annotations

import gzip
import io
import json
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset
from base_section import base_section
from compositional_miniature import photo

from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import DuplicateImageError
from compositional_prompts.datasets.columns import ColumnError
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.ingestion import ingest
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.datasets.webdatasets import tar_samples
from compositional_prompts.datasets.webdatasets.shard_paths import ShardError, find_shards
from compositional_prompts.datasets.webdatasets.webdataset import Webdataset
from compositional_prompts.files.archives import ArchiveError
from compositional_prompts.pipeline.params_file import read_params

SHIPPED, BASE = read_params(Path(__file__).parents[2] / "params.yaml", Download)
COLUMNS: dict[str, Any] = dict.fromkeys(
    ("image", "image_id", "product_id", "attribute", "object", "title")
) | {"truth": []}
Members = list[tuple[str, bytes]]


def data_set(shards: str, columns: dict[str, Any] | None = None, **changed: Any) -> Webdataset:
    section = (SHIPPED.model_extra or {})["webdataset"].model_dump()
    section |= {"shards": shards, "columns": COLUMNS | (columns or {})}
    return Webdataset.model_validate(section | changed)


def select(params: Webdataset) -> Selection:
    return params.select(BASE)


def rows(params: Webdataset) -> list[CatalogRow]:
    return list(select(params).rows)


def write_tar(
    path: Path, members: Members, change: Callable[[tarfile.TarInfo], object] = id
) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            change(header)
            tar.addfile(header, io.BytesIO(content))
    return str(path)


def sample(key: str, number: int = 0, **values: Any) -> Members:
    return [(f"{key}.jpg", photo(number)), (f"{key}.json", json.dumps(values).encode())]


def test_what_img2dataset_writes_is_read(tmp_path: Path) -> None:
    """Its layout: five digits a tar, nine a key, and the JSON with the columns of its list."""
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"{shard:05d}.tar")) as writer:
            for place in range(2):
                number = 2 * shard + place
                key = f"{shard:05d}{place:04d}"
                caption = f"A red shoe, no. {number}" if number else None
                status = {
                    "caption": caption,
                    "url": f"https://shop.example/{number}.jpg",
                    "key": key,
                    "status": "success",
                    "error_message": None,
                    "width": 8,
                    "exif": "{}",
                    "sha256": "0" * 64,
                    "colour": ["red", "white"],
                }
                writer.write(
                    {
                        "__key__": key,
                        "jpg": photo(number),
                        "txt": caption or "",
                        "json": json.dumps(status, indent=4),
                    }
                )
        (tmp_path / f"{shard:05d}.parquet").write_bytes(b"its list")
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    truth = [{"group": "color", "column": "colour"}]
    params = data_set(str(tmp_path / "{00000..00001}.tar"), {"title": "caption", "truth": truth})
    selection = select(params)
    found = list(selection.rows)
    keys = ["00000/000000000", "00000/000000001", "00001/000010000", "00001/000010001"]
    assert [row.image_id for row in found] == [row.product_id for row in found] == keys
    assert [row.path for row in found] == [f"{key.replace('/', '.tar/')}.jpg" for key in keys]
    assert [row.title for row in found] == [None, *(f"A red shoe, no. {n}" for n in (1, 2, 3))]
    assert [row.image for row in found] == [photo(n) for n in range(4)]
    assert {row.truth["color"] for row in found} == {"red;white"}
    assert {(row.attribute, row.object, row.rejection) for row in found} == {(None, None, None)}
    assert selection.columns_kept_out == [
        "error_message", "exif", "key", "sha256", "status", "txt", "url", "width",
    ]  # fmt: skip
    assert rows(params) == found


@pytest.mark.parametrize("compressed", [False, True])
def test_what_the_library_writes_is_read(compressed: bool, tmp_path: Path) -> None:
    ending = "tar.gz" if compressed else "tar"
    pattern = str(tmp_path / f"train-%02d.{ending}")
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as writer:
        for number in range(7):
            image = {"jpg": photo(number)} if number % 2 else {"input.PNG": photo(number)}
            writer.write(
                {
                    "__key__": f"shoes/no{number}",
                    "cls": number % 3,
                    "txt": f"Schuh Nr. {number} äöü",
                    "mask.npy": b"\x93NUMPY",
                    **image,
                }
            )
    (tmp_path / "classes.txt").write_text("flats\nankle_boots\nsandals\n\n")
    params = data_set(
        str(tmp_path / f"*.{ending}"),
        {"object": "cls", "title": "txt", "image_id": "__key__", "product_id": "__shard__"},
        class_names=str(tmp_path / "classes.txt"),
    )
    selection = select(params)
    found = list(selection.rows)
    assert [row.image_id for row in found] == [f"shoes/no{n}" for n in range(7)]
    assert [row.product_id for row in found] == [f"train-0{n // 3}" for n in range(7)]
    assert [row.image for row in found] == [photo(n) for n in range(7)]
    assert [row.object for row in found] == ["flats", "ankle.boots", "sandals"] * 2 + ["flats"]
    assert {row.title for row in found} == {f"Schuh Nr. {n} äöü" for n in range(7)}
    assert dict(selection.passed_over or {}) == {"mask.npy": 7}
    expected = webdataset.WebDataset(
        sorted(map(str, tmp_path.glob(f"*.{ending}"))), shardshuffle=False
    )
    for row, one in zip(found, expected, strict=True):
        assert row.image == one.get("jpg", one.get("input.png"))
        assert (row.image_id, row.title) == (one["__key__"], one["txt"].decode())


def test_samples_that_cannot_be_used_are_set_aside_and_named(tmp_path: Path) -> None:
    def link(header: tarfile.TarInfo) -> None:
        if header.name == "link.jpg":
            header.type, header.linkname, header.size = tarfile.SYMTYPE, "/etc/passwd", 0

    path = write_tar(
        tmp_path / "a.tar",
        [
            *sample("good"),
            ("bare.json", b'{"status": "failed_to_download", "error_message": "HTTP Error 404"}'),
            ("words.txt", b"a caption alone"),
            ("broken.jpg", photo(1)),
            ("broken.json", b'{"caption": '),
            ("latin.jpg", photo(2)),
            ("latin.json", b'{"caption": "caf\xe9"}'),
            ("half.jpg", photo(3)),
            ("half.json", b'{"caption": "\\ud800"}'),
            ("list.jpg", photo(4)),
            ("list.json", b"[1]"),
            ("deep.jpg", photo(5)),
            ("deep.json", b"[" * 100_000),
            ("text.jpg", photo(6)),
            ("text.txt", b"\xff"),
            ("link.jpg", b""),
            ("n\udcff.jpg", photo(7)),
            ("large.jpg", photo(8)),
            ("large.txt", bytes(tar_samples.TEXT_BYTES + 1)),
            *sample("last", 9),
        ],
        link,
    )
    found = rows(data_set(path))
    assert [(row.image_id, row.rejection) for row in found] == [
        ("a/good", None),
        ("a/bare", "no_image"),
        ("a/words", "no_image"),
        ("a/broken", "unreadable_json"),
        ("a/latin", "unreadable_json"),
        ("a/half", "unreadable_json"),
        ("a/list", "unreadable_json"),
        ("a/deep", "unreadable_json"),
        ("a/text", "unreadable_text"),
        ("a/link", "link"),
        ("a/n\\udcff", "name_not_utf8"),
        ("a/large", "too_large"),
        ("a/last", None),
    ]
    assert found[1].path == (
        f"{path}, sample 'bare': failed_to_download HTTP Error 404 (members: json)"
    )
    assert all(row.path.encode() for row in found)


def ingested(folder: Path, params: Webdataset) -> dict[str, Any]:
    outputs = (folder / name for name in ("catalog", "truth", "rejected"))
    download = SHIPPED.model_copy(
        update={"dataset": "webdataset", "__pydantic_extra__": {"webdataset": params}}
    )
    base = base_section(folder / "rows", workers=1)
    metrics, _ = ingest(params.select(base), *outputs, download, base)
    return metrics


def test_tars_become_a_catalog_with_all_that_is_left_out_counted(tmp_path: Path) -> None:
    labels = ({"kind": "Ankle Boots", "tone": "Red"}, {"kind": "NA", "tone": "Red"}, {})
    members = [one for n, values in enumerate(labels) for one in sample(f"s{n}", n, **values)]
    path = write_tar(
        tmp_path / "a.tar",
        [
            *members,
            ("bare.json", b"{}"),
            ("._s0.jpg", b"of a Mac"),
            ("__info__", b""),
            ("x.NPY", b""),
        ],
    )
    metrics = ingested(
        tmp_path, data_set(path, {"attribute": "tone", "object": "kind"}, on_missing="drop")
    )
    assert metrics["images"] == 1
    assert metrics["dropped"] == {"missing_label": 2}
    assert metrics["rejected"] == {"no_image": 2}
    assert metrics["passed_over"] == {"none": 2, "npy": 1}
    assert metrics["columns_kept_out"] == []
    assert metrics["grows"] is True
    labels_read = read_labels(tmp_path / "catalog").to_pylist()
    assert [(row["image_id"], row["object"]) for row in labels_read] == [("a/s0", "Ankle.Boots")]


def test_an_id_in_two_tars_names_both(tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", sample("one", ord(name)))
    keyed = data_set(str(tmp_path / "*.tar"), {"image_id": "__key__"})
    with pytest.raises(
        DuplicateImageError, match=r"'one' occurs twice: 'a.tar/one.jpg' and 'b.tar"
    ):
        ingested(tmp_path, keyed)
    assert [row.image_id for row in rows(data_set(str(tmp_path / "*.tar")))] == ["a/one", "b/one"]


def test_several_images_are_photos_of_one_product_where_that_is_said(tmp_path: Path) -> None:
    images = [("p.front.jpg", photo(1)), ("p.back.jpg", photo(2)), ("p.seg.png", photo(3))]
    path = write_tar(tmp_path / "a.tar", [*images, ("q.front.jpg", photo(4))])
    with pytest.raises(ShardError, match=r"'p': 3 images \(front\.jpg, back\.jpg, seg"):
        rows(data_set(path))
    found = rows(data_set(path, images=["front.jpg", "back.jpg"]))
    assert [(row.image_id, row.product_id, row.image) for row in found] == [
        ("a/p.front.jpg", "a/p", photo(1)),
        ("a/p.back.jpg", "a/p", photo(2)),
        ("a/q.front.jpg", "a/q", photo(4)),
    ]
    selection = select(data_set(path, images=["back.jpg"]))
    assert [(row.image_id, row.rejection) for row in selection.rows] == [
        ("a/p", None), ("a/q", "no_image"),
    ]  # fmt: skip
    assert dict(selection.passed_over or {}) == {"front.jpg": 2, "seg.png": 1}


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "a\\x.jpg"])
def test_a_member_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample("good"), (name, photo(1))])
    with pytest.raises(ArchiveError, match=r"a\.tar: the member .* is not a plain relative path"):
        rows(data_set(path))


def test_names_with_folders_dots_and_a_leading_dot_slash_are_parted_as_by_the_library(
    tmp_path: Path,
) -> None:
    names = ["./v1.2/a.jpg", "v1.2/b.x.jpg", "c.JPG"]
    path = write_tar(tmp_path / "a.tar", [(name, photo(n)) for n, name in enumerate(names)])
    assert [row.image_id for row in rows(data_set(path))] == ["a/v1.2/a", "a/v1.2/b", "a/c"]
    library = webdataset.WebDataset(path, shardshuffle=False)
    assert [one["__key__"].removeprefix("./") for one in library] == ["v1.2/a", "v1.2/b", "c"]


def second(content: bytes) -> int:
    """Where the header of the second sample's image is."""
    return content.index(b"b.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tar: tar[: second(tar) + 600], r"cut off within the sample 'b' \(b\.jpg\)"),
        (lambda tar: tar[: second(tar) + 100], r"damaged: no header.*the member 'a\.json'"),
        (lambda tar: tar.replace(b"b.jpg", b"c.jpg", 1), r"damaged.*to the member 'a\.json'"),
        (lambda tar: tar + tar, r"more follows after its end, as where tars were joined"),
        (lambda tar: b"", r"an empty file, and no tar"),
        (lambda tar: b"<html>gone</html>" * 99, r"damaged or cut off"),
        (lambda tar: b"\x28\xb5\x2f\xfd" + tar, r"packed by zstd; \.tar and \.tar\.gz are"),
        (lambda tar: gzip.compress(tar)[:-20], r"damaged or cut off"),
    ],
)
def test_a_tar_that_is_not_whole_is_an_error_that_names_it(
    change: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    path = Path(write_tar(tmp_path / "a.tar", [*sample("a"), *sample("b", 1)]))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArchiveError, match=rf"a\.tar: (?s:.*)({message})"):
        rows(data_set(str(path)))


def test_a_tar_without_its_end_is_told_and_an_empty_one_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(write_tar(tmp_path / "a.tar", sample("a")))
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content.ljust(-(-len(content) // 512) * 512, b"\0"))
    write_tar(tmp_path / "b.tar", [])
    with caplog.at_level(logging.WARNING):
        found = rows(data_set(str(tmp_path / "*.tar")))
    assert [row.image_id for row in found] == ["a/a"]
    assert "a.tar: lacks the mark at which a tar ends" in caplog.text
    assert "b.tar: a tar without members" in caplog.text


def test_members_in_another_order_are_an_error(tmp_path: Path) -> None:
    members = [*sample("a"), *sample("b", 1)]
    path = write_tar(tmp_path / "a.tar", sorted(members, key=lambda one: one[0][-4:]))
    with pytest.raises(ShardError, match=r"members of the sample 'a' do not follow one another"):
        rows(data_set(path))
    path = write_tar(tmp_path / "b.tar", [*sample("a"), ("a.JPG", photo(2))])
    with pytest.raises(ShardError, match=r"b\.tar: the sample 'a' has two members 'jpg'"):
        rows(data_set(path))


def test_a_column_that_no_sample_has_and_a_value_of_no_kind_are_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample("a", kind={"x": 1}), ("b.jpg", photo(1))])
    with pytest.raises(ColumnError, match=r"a\.tar: column 'colour' is missing; found kind"):
        rows(data_set(path, {"title": "colour"}))
    with pytest.raises(ColumnError, match=r"a\.tar, sample 'a': column 'kind' holds a group"):
        rows(data_set(path, {"title": "kind"}))
    classes = tmp_path / "classes.txt"
    classes.write_text("shoes\n")
    path = write_tar(tmp_path / "b.tar", [("a.jpg", photo(1)), ("a.cls", b"7")])
    with pytest.raises(ColumnError, match=r"sample 'a': column 'cls' is 7, expected the"):
        rows(data_set(path, {"object": "cls"}, class_names=str(classes)))
    for content, message in (
        (b"\n", "line 1: blank"),
        (b"a\n\nb", "line 2: blank"),
        (b"\xff", "byte 0"),
    ):
        classes.write_bytes(content)
        with pytest.raises(ShardError, match=rf"class_names: .*classes\.txt.*{message}"):
            rows(data_set(path, {"object": "cls"}, class_names=str(classes)))


def test_braces_and_wildcards_name_tars(tmp_path: Path) -> None:
    names = ["train/00.tar", "train/01.tar", "val/00.tar", "val/00.tgz", "val/x.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern: str) -> list[str]:
        return [shard.name for shard in find_shards(f"{tmp_path}/{pattern}", "shards")]

    assert found("{val,train}/00.tar") == ["val/00", "train/00"]
    assert found("train/{00..01}.tar") == ["00", "01"]
    assert found("train/0*.tar") == ["00", "01"]
    assert found("**/*.tar") == ["train/00", "train/01", "val/00"]
    assert found("train/01.tar") == ["01"]
    for pattern, message in (
        ("train/{00..02}.tar", r"there is no file .*train/02\.tar"),
        ("train/*.gz", r"no file is like .*train/\*\.gz"),
        ("val/*", r"also fits .*val/x\.txt, which ends in none"),
        ("val/00.*", r"two of the tars differ in their ending alone"),
        ("train/{00,00}.tar", r"names .*train/00\.tar twice"),
        ("train/{00", r"there is no file|a brace is not closed"),
    ):
        with pytest.raises(ShardError, match=message):
            found(pattern)
    for pattern in ("pipe:cat a.tar", "https://a.example/{0..1}.tar", "s3://a/b.tar"):
        with pytest.raises(ShardError, match="read from local paths alone"):
            find_shards(pattern, "shards")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": ["jpg", "jpg"]}, "images"),
        ({"images": [".jpg"]}, "no ending of an image"),
        ({"images": ["npy"]}, "no ending of an image"),
        ({"columns": COLUMNS | {"image": "jpg"}}, "columns.image must be null"),
    ],
)
def test_parameters_that_do_not_fit_are_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_set("a.tar", **changed) if "columns" not in changed else Webdataset.model_validate(
            data_set("a.tar").model_dump() | changed
        )
