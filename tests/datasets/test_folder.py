"""A user's own directory: which files count, and what its CSV may say."""

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compositional_prompts.datasets.folder import (
    FolderError,
    find_images,
    read_labels_csv,
    select_images,
)
from compositional_prompts.datasets.parameters import LABEL_COLUMNS, FolderDataset

COLUMNS = (*LABEL_COLUMNS[2:], "color", "closure")

TRUTH = ["color", "closure"]
PATHS = {"a.jpg", "sub/b.png", "sub/c.JPG"}


def make(directory: Path, *names: str) -> Path:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return directory


def parse(text: str | bytes) -> dict[str, dict[str, str | None]]:
    content = text.encode() if isinstance(text, str) else text
    labels = read_labels_csv(content, "labels.csv", TRUTH, PATHS, "photos")
    return {path: dict(values) for path, values in labels.items()}


def test_images_are_found_sorted_and_hidden_files_skipped(tmp_path: Path) -> None:
    make(tmp_path, "b.JPG", "a/z.tiff", "a/y.WebP", ".hidden.jpg", ".git/c.png", "notes.txt", "jpg")
    assert find_images(tmp_path) == ["a/y.WebP", "a/z.tiff", "b.JPG"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path / "photos", "a/1.jpg")
    make(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "photos" / "a" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "twice").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "dangling.jpg").symlink_to(tmp_path / "nothing.jpg")
    selection = select_images(
        FolderDataset(path=str(tmp_path / "photos"), labels=None, truth=[], on_missing="keep")
    )
    rows = {row.image_id: row.image for row in selection.rows}
    assert rows == {"a/1.jpg": b"a/1.jpg", "outside/2.jpg": b"2.jpg", "dangling.jpg": None}


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(FolderError, match="not UTF-8: rename it"):
        find_images(tmp_path)


def test_an_empty_or_missing_directory_is_told(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt")
    with pytest.raises(FolderError, match="empty data set"):
        find_images(tmp_path)
    with pytest.raises(FolderError, match="there is no directory"):
        find_images(tmp_path / "nothing")


@pytest.mark.parametrize(("on_missing", "ids"), [("keep", 3), ("drop", 1)])
def test_images_the_csv_does_not_name(tmp_path: Path, on_missing: str, ids: int) -> None:
    make(tmp_path / "photos", *PATHS)
    csv_path = tmp_path / "labels.csv"
    csv_path.write_text(
        "image_path,object,attribute,product_id,closure\na.jpg,Boat Shoes,Red,p1,laces; zipper"
    )
    selection = select_images(
        FolderDataset.model_validate(
            {
                "path": str(tmp_path / "photos"),
                "labels": str(csv_path),
                "truth": TRUTH,
                "on_missing": on_missing,
            }
        )
    )
    rows = list(selection.rows)
    assert len(rows) == selection.total == ids
    assert selection.dropped == {"missing_label": 3 - ids}
    row = rows[0]
    assert (row.image_id, row.product_id, row.image) == ("a.jpg", "p1", b"a.jpg")
    assert (row.attribute, row.object, row.title) == ("Red", "Boat.Shoes", None)
    assert row.truth == {"color": None, "closure": "laces; zipper"}
    for other in rows[1:]:
        assert (other.product_id, other.attribute) == (other.image_id, None)


@pytest.mark.parametrize(
    ("truth", "message"),
    [(["color", "title"], "title is a column with a meaning of its own"), (["a", "a"], "twice")],
)
def test_columns_of_truth_have_no_other_meaning(truth: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FolderDataset(path="photos", labels=None, truth=truth, on_missing="keep")


def test_a_missing_csv_is_told(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    with pytest.raises(FolderError, match="there is no file"):
        select_images(
            FolderDataset(
                path=str(tmp_path), labels=str(tmp_path / "x.csv"), truth=[], on_missing="keep"
            )
        )


def test_byte_order_mark_crlf_quotes_and_blank_lines() -> None:
    text = '\ufeffimage_path,title\r\n\r\n"a.jpg","Shoe, ""Air""\r\nred"\r\n./sub/b.png, Boot \r\n'
    assert parse(text) == {
        "a.jpg": {"title": 'Shoe, "Air"\r\nred'},
        "sub/b.png": {"title": "Boot"},
    }


def test_a_header_alone_labels_nothing() -> None:
    assert parse("image_path,title\n") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: no column 'image_path'; found nothing"),
        ("path,title\na.jpg,x\n", r"line 1: unknown column 'path'; found path, title"),
        (
            "image_path,colr\na.jpg,red\n",
            r"unknown column 'colr'.*, color, closure, .*download.folder.truth",
        ),
        ("image_path;title\na.jpg;x\n", r"unknown column 'image_path;title'.*separated by commas"),
        ("title\nx\n", r"no column 'image_path'"),
        ("image_path,title,title\na.jpg,x,y\n", r"column 'title' stands there twice"),
        ("image_path,title\na.jpg,x\nd.jpg,y\n", r"line 3: 'd.jpg' is no image under photos"),
        ("image_path\nA.jpg\n", r"line 2: 'A.jpg' is no image"),
        ("image_path\n/photos/a.jpg\n", r"line 2: '/photos/a.jpg' is no image"),
        ("image_path,title\n,x\n", r"line 2: image_path is empty"),
        ("image_path,title\na.jpg,x\n./a.jpg,y\n", r"line 3: 'a.jpg' was already named in line 2"),
        ("image_path,title\na.jpg,x,y\n", r"line 2: 3 cells, expected 2"),
        ("image_path,title\na.jpg\n", r"line 2: 1 cells, expected 2"),
        ("image_path,attribute,object\na.jpg,Red,\n", r"line 2: object is empty"),
        ("image_path,attribute\na.jpg,Red\n", r"line 2: object is empty"),
        ("image_path,object\na.jpg,Shoes\n", r"line 2: attribute is empty"),
        ("image_path,attribute,object\na.jpg,R_d,Shoes\n", r"line 2: attribute: .*underscore"),
        ('image_path,title\na.jpg,"x\n', r"line 2: not CSV"),
        (b"image_path,title\na.jpg,ok\nsub/b.png,caf\xe9\n", r"line 3: byte 0xe9 is not UTF-8"),
    ],
)
def test_a_wrong_csv_names_the_line(text: str | bytes, message: str) -> None:
    with pytest.raises(FolderError, match=message):
        parse(text)


CELL = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="_"), max_size=12
).map(str.strip)


@given(
    st.dictionaries(
        st.sampled_from(sorted(PATHS)),
        st.fixed_dictionaries(dict.fromkeys(COLUMNS, CELL)),
    ),
    st.permutations(["image_path", *COLUMNS]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_what_a_csv_writer_writes_is_read_back(
    table: dict[str, dict[str, str]], columns: list[str], end: str, mark: bool
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator=end)
    writer.writeheader()
    for path, values in table.items():
        writer.writerow({"image_path": path, **values})
    content = buffer.getvalue().encode("utf-8-sig" if mark else "utf-8")
    expected = {
        path: {name: text or None for name, text in values.items()}
        for path, values in table.items()
    }
    assert parse(content) == expected


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_by_line(content: bytes) -> None:
    try:
        labels = parse(b"image_path,title\n" + content)
    except FolderError as error:
        assert "labels.csv, line " in str(error)
    else:
        assert set(labels) <= PATHS
