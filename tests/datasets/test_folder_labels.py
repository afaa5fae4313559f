"""The forms in which people keep labels of a folder of images."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from base_section import base_section
from named_files import make

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.columns import Columns
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.folders.folder import Folder

BASE = base_section(Path("rows"), workers=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg")


def folder(photos: Path, labels: Any, **values: Any) -> Folder:
    columns = dict.fromkeys(Columns.model_fields) | {"truth": []} | values.pop("columns", {})
    given = {"truth": ["color"], "on_missing": "keep", "missing_labels": []} | values
    named = str(labels) if isinstance(labels, Path) else labels
    return Folder.model_validate(
        {"path": str(photos), "labels": named, "columns": columns, **given}
    )


def select(photos: Path, labels: Any, **values: Any) -> tuple[dict[str, CatalogRow], Selection]:
    selection = folder(photos, labels, **values).select(BASE)
    found = {row.image_id: row for row in selection.rows}
    assert len(found) == selection.total
    return found, selection


def write(photos: Path, name: str, text: str | bytes) -> Path:
    path = photos.parent / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def labels_of(rows: dict[str, CatalogRow]) -> dict[str, tuple[str | None, str | None]]:
    return {name: (row.attribute, row.object) for name, row in rows.items() if row.object}


@pytest.mark.parametrize(
    "text",
    [
        # What people's spreadsheets and scripts wrote, with each a thing that was refused before.
        "image_path;attribute;object\na.jpg;Canvas;Sandals\nb.jpg;Leather;Boots\n",
        "image_path\tattribute\tobject\na.jpg\tCanvas\tSandals\nb.jpg\tLeather\tBoots\n",
        "sep=,\nImage_Path,Attribute,Object,price\na.jpg,Canvas,Sandals,10\nb.jpg,Leather,Boots,\n,,,\n",
        'image_path, attribute, object, title\na.jpg, "Canvas", "Sandals", "Summer, white"\n'
        'b.jpg, "Leather", "Boots", "Boot"\n',
        "\ufefffile_name,attribute,label,size\r\nphotos\\a.jpg,Canvas,Sandals,41\r\n"
        "photos\\b.jpg,Leather,Boots,42\r\n",
        "object,attribute,image_path,attribute2\nSandals,Canvas,a.jpg,x\nBoots,Leather,b.jpg,y\n",
    ],
)
def test_labels_in_any_dialect(photos: Path, text: str) -> None:
    rows, _ = select(photos, write(photos, "labels.csv", text))
    assert labels_of(rows) == {"a.jpg": ("Canvas", "Sandals"), "b.jpg": ("Leather", "Boots")}


def test_columns_that_are_not_ours_are_kept_out_and_said(photos: Path) -> None:
    text = "image_path,object,price,size\na.jpg,Sandals,10,41\n"
    rows, selection = select(photos, write(photos, "labels.csv", text))
    assert labels_of(rows) == {"a.jpg": (None, "Sandals")}
    assert selection.columns_kept_out == ["price", "size"]


def test_one_label_is_the_object(photos: Path) -> None:
    rows, _ = select(
        photos, write(photos, "l.csv", "image_path,object\na.jpg,Sandals\nb.jpg,Boots\n")
    )
    assert labels_of(rows) == {"a.jpg": (None, "Sandals"), "b.jpg": (None, "Boots")}


def test_columns_under_other_names(photos: Path) -> None:
    text = (
        "Artikel;Bild;Farbe;Art;Text;Gruppe;attribute;product_id\n"
        "1;a.jpg;Marine Blau;Sandalen;Eine Sandale;g1;x;p\n"
        "2;b.jpg;unbekannt;Stiefel;;g1;y;q\n"
    )
    columns = {
        "image": "Bild",
        "product_id": "Gruppe",
        "attribute": "Farbe",
        "object": "Art",
        "title": "Text",
        "truth": [{"group": "hue", "column": "Farbe"}],
    }
    rows, selection = select(
        photos, write(photos, "l.csv", text), columns=columns, missing_labels=["unbekannt"]
    )
    a, b, c = rows.values()
    assert (a.product_id, a.attribute, a.object, a.title) == (
        "g1",
        "Marine.Blau",
        "Sandalen",
        "Eine Sandale",
    )
    assert a.truth == {"color": None, "hue": "Marine Blau"}
    # What one label without the other is, the ingestion says of the whole data set.
    assert (b.product_id, b.attribute, b.object, b.title) == ("g1", None, "Stiefel", None)
    assert c == CatalogRow("c.jpg", "c.jpg", b"c.jpg", "c.jpg", truth={"color": None, "hue": None})
    assert selection.columns_kept_out == ["Artikel", "attribute", "product_id"]


def test_an_object_that_is_named_is_the_only_label(photos: Path) -> None:
    text = "image_path,attribute,kind\na.jpg,size 41,Sandals\n"
    rows, selection = select(photos, write(photos, "l.csv", text), columns={"object": "kind"})
    assert labels_of(rows) == {"a.jpg": (None, "Sandals")}
    assert selection.columns_kept_out == ["attribute"]


def test_a_column_that_is_named_and_missing_is_told(photos: Path) -> None:
    labels = write(photos, "l.csv", "image_path,object\na.jpg,Sandals\n")
    message = r"download\.folder\.columns: .*column 'kind' is missing; found image_path, object"
    with pytest.raises(ValueError, match=message):
        select(photos, labels, columns={"object": "kind"})


def test_several_photos_of_a_product(photos: Path) -> None:
    text = "image_path,product_id,object\na.jpg,p1,Sandals\nb.jpg,p1,Sandals\nc.jpg,p2,Boots\n"
    rows, _ = select(photos, write(photos, "l.csv", text))
    assert [row.product_id for row in rows.values()] == ["p1", "p1", "p2"]


def test_json_lines(photos: Path) -> None:
    lines = [
        {
            "file_name": "a.jpg",
            "object": "Boat Shoes",
            "attribute": "Navy_Blue",
            "color": ["a", "b"],
        },
        {"file_name": "b.jpg", "object": None, "caption": "A boot", "price": 7},
    ]
    text = "\ufeff" + "\n\n".join(json.dumps(one) for one in lines)
    for name in ("l.jsonl", "l.NDJSON", "l.json"):
        rows, selection = select(photos, write(photos, name, text))
        assert labels_of(rows) == {"a.jpg": ("Navy.Blue", "Boat.Shoes")}
        assert rows["a.jpg"].truth == {"color": "a;b"}
        assert rows["b.jpg"].title == "A boot"
        assert selection.columns_kept_out == ["price"]


@pytest.mark.parametrize(("name", "comma"), [("metadata.csv", ","), ("metadata.csv", ";")])
def test_metadata_beside_the_images_is_relative_to_its_folder(
    tmp_path: Path, name: str, comma: str
) -> None:
    photos = make(tmp_path, "a.jpg", "train/a.jpg", "train/deep/b.jpg", "test/a.jpg", "test/c.jpg")
    (photos / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "root"}\n')
    (photos / "train" / name).write_text(
        f"file_name{comma}label\na.jpg{comma}T\ndeep/b.jpg{comma}U\n"
    )
    (photos / "test" / "metadata.jsonl").write_text('{"file_name": "./a.jpg", "label": 3}')
    rows, selection = select(photos, "metadata")
    assert labels_of(rows) == {
        "train/a.jpg": (None, "T"),
        "train/deep/b.jpg": (None, "U"),
        "test/a.jpg": (None, "3"),
    }
    assert rows["a.jpg"].title == "root"
    assert selection.dropped == {"missing_label": 0}
    assert select(photos, "metadata", on_missing="drop")[1].dropped == {"missing_label": 1}
    (photos / "metadata.csv").write_text("file_name,text,label\ntest/a.jpg,x,4\n")
    with pytest.raises(ValueError, match=r"test/metadata\.jsonl, line 1: 'test/a.jpg' was already"):
        select(photos, "metadata")


def test_metadata_that_is_not_there_or_not_read_is_told(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"no metadata\.jsonl and no metadata\.csv in .*photos"):
        select(photos, "metadata")
    (photos / "metadata.csv").write_text("file_name,label\na.jpg,T\n")
    with caplog.at_level(logging.WARNING):
        rows, _ = select(photos, None)
    assert labels_of(rows) == {}
    assert "download.folder.labels: metadata reads it" in caplog.text


def coco(**changes: Any) -> dict[str, Any]:
    return {
        "info": {"year": 2014, "urls": ["x"]},
        "licenses": [{"id": 1}],
        "annotations": [
            {"id": 7, "image_id": 20, "caption": "A brown boot."},
            {"id": 8, "image_id": 10, "caption": " A sandal \n"},
            {"id": 9, "image_id": 10, "caption": "Another sandal"},
        ],
        "images": [
            {"id": 10, "file_name": "a.jpg", "license": 1, "item": "p1"},
            {"id": 20, "file_name": "photos/b.jpg", "license": 1, "item": "p1"},
            {"id": 30, "file_name": "c.jpg", "license": 1},
        ],
    } | changes


@pytest.mark.parametrize("order", [("images", "annotations"), ("annotations", "images")])
def test_captions_of_coco(photos: Path, order: tuple[str, str]) -> None:
    document = coco()
    text = json.dumps({name: document.pop(name) for name in order} | document, indent=1)
    labels = write(photos, "captions.json", text)
    rows, selection = select(photos, labels, columns={"product_id": "item"})
    assert [(row.title, row.product_id) for row in rows.values()] == [
        ("A sandal", "p1"),
        ("A brown boot.", "p1"),
        (None, "c.jpg"),
    ]
    assert selection.further_captions == 1
    assert set(selection.columns_kept_out or ()) == {"id", "license", "image_id"}
    assert labels_of(rows) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": []}, r"expected COCO's captions.*found lists: licenses, images"),
        ({"images": [{"id": 1}, {"id": 1}]}, r"the images 1 and 2 have both the id 1"),
        ({"images": [{"file_name": "a.jpg"}]}, r"image 1: id is no number"),
        (
            {"annotations": [{"image_id": 99, "caption": "x"}]},
            r"annotation 1: image_id is 99, and no image has that id",
        ),
        (
            {"annotations": [{"image_id": 10, "category_id": 3}]},
            r"no column says anything of the images; found .*category_id",
        ),
        (
            {"images": [{"id": 10, "file_name": "x.jpg"}, {"id": 20}]},
            r"image 2: file_name is empty",
        ),
    ],
)
def test_what_is_not_coco_is_told(photos: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(photos, write(photos, "captions.json", json.dumps(coco(**changes))))


def test_captions_of_lavis(photos: Path) -> None:
    train = [
        {"caption": "A sandal", "image": "photos/a.jpg", "image_id": "coco_1"},
        {"caption": "Another", "image": "photos/a.jpg", "image_id": "coco_1"},
        {"caption": "A boot", "image": "photos/b.jpg", "image_id": "coco_2"},
    ]
    val = [
        {"image": "c.jpg", "caption": ["One", "Two", "Three"]},
        {"image": "b.jpg", "caption": []},
    ]
    rows, selection = select(photos, write(photos, "train.json", json.dumps(train)))
    assert [row.title for row in rows.values()] == ["A sandal", "A boot", None]
    assert selection.further_captions == 1
    rows, selection = select(photos, write(photos, "val.json", json.dumps(val)))
    assert [row.title for row in rows.values()] == [None, None, "One"]
    assert selection.further_captions == 2


def test_captions_of_flickr(photos: Path) -> None:
    text = "image_name| comment_number| comment\na.jpg| 0| Two men.\na.jpg| 1| Men, two.\n"
    columns = {"image": "image_name", "title": "comment"}
    rows, selection = select(photos, write(photos, "results.csv", text), columns=columns)
    assert rows["a.jpg"].title == "Two men."
    assert selection.further_captions == 1


def test_json_that_changes_while_photos_are_read_is_told(photos: Path) -> None:
    document = coco()
    images = {"images": document.pop("images"), "far": "x" * 2**16}
    labels = write(photos, "l.json", json.dumps(images | document))
    rows = folder(photos, labels).select(BASE).rows
    labels.write_text(json.dumps(coco()))
    with pytest.raises(ValueError, match=r"l\.json.*: the file was changed while it was read"):
        list(rows)


def test_folders_are_objects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = make(tmp_path, "boat_shoes/1.jpg", "Boots/1.jpg", "Boots/x/2.jpg", "3.jpg")
    rows, selection = select(photos, "folders")
    assert labels_of(rows) == {
        "boat_shoes/1.jpg": (None, "boat.shoes"),
        "Boots/1.jpg": (None, "Boots"),
        "Boots/x/2.jpg": (None, "Boots"),
    }
    assert "1 images lie in more folders" in caplog.text and "'Boots/x/2.jpg'" in caplog.text
    assert selection.columns_kept_out is None
    assert select(photos, "folders", on_missing="drop")[1].dropped == {"missing_label": 1}


def test_folders_of_several_levels(tmp_path: Path) -> None:
    photos = make(tmp_path, "Train/red/NA/Boots/p1/1.jpg", "valid/Blue/y/Sandals/p2/1.jpg")
    levels = ["split", "attribute", None, "object", "product_id"]
    rows, _ = select(photos, levels)
    assert labels_of(rows) == {
        "Train/red/NA/Boots/p1/1.jpg": ("red", "Boots"),
        "valid/Blue/y/Sandals/p2/1.jpg": ("Blue", "Sandals"),
    }
    assert [row.pair_split for row in rows.values()] == ["train", "val"]
    assert [row.product_id for row in rows.values()] == ["p1", "p2"]
    rows, _ = select(photos, [None, "color"], missing_labels=["red"])
    assert [row.truth for row in rows.values()] == [{"color": None}, {"color": "Blue"}]


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["1.jpg"], "folders", r"no image lies in 1 folders, of which the names would be object"),
        (
            ["train/a/1.jpg", "test/a/1.jpg"],
            "folders",
            r"test, train, which are splits.*\[split, obj",
        ),
        (["x/a/1.jpg"], ["split", "object"], r"is of the split 'x', expected one of train"),
        (["train/a/1.jpg", "b/1.jpg"], ["split", "object"], r"'b/1.jpg' lies in no folder of a"),
    ],
)
def test_folders_that_are_no_labels_are_told(
    tmp_path: Path, names: list[str], labels: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"download\.folder\.labels: .*{message}"):
        select(make(tmp_path, *names), labels)
