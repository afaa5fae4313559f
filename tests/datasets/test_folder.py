"""A user's own directory: its images, and what its CSV may say of them."""

import csv
import io
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from base_section import base_section
from hypothesis import given
from hypothesis import strategies as st
from named_files import make
from pydantic import ValidationError

from compositional_prompts.catalog.image_files import FolderError
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.folders.folder import LABEL_COLUMNS, Folder, read_labels_csv
from compositional_prompts.files.sorted_names import SortedNames

BASE = base_section(Path("rows"), workers=1)

COLUMNS = (*LABEL_COLUMNS[2:], "color", "closure")

TRUTH = ["color", "closure"]
PATHS = {"a.jpg", "sub/b.png", "sub/c.JPG"}


def select(data_set: Folder) -> Selection:
    return data_set.select(BASE)


def parse(
    text: str | bytes, paths: Iterable[str] = PATHS, truth: Sequence[str] = TRUTH
) -> dict[str, dict[str, str | None]]:
    file = io.BytesIO(text.encode() if isinstance(text, str) else text)
    names = SortedNames(paths)
    labels = read_labels_csv(file, "labels.csv", truth, names, "photos")
    found = {path: labels.of(position, path) for position, path in enumerate(names)}
    named = {path: dict(values) for path, values in found.items() if values is not None}
    assert len(labels) == len(named)
    return named


def test_a_dangling_link_is_a_row_without_bytes(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "shoe.jpg?v=123", "notes.txt")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nothing.jpg")
    selection = select(Folder(path=str(tmp_path), labels=None, truth=[], on_missing="keep"))
    rows = {row.image_id: row.image for row in selection.rows}
    assert rows == {
        "a/1.jpg": b"a/1.jpg",
        "dangling.jpg": None,
        "shoe.jpg?v=123": b"shoe.jpg?v=123",
    }
    assert selection.passed_over == {"txt": 1}


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    params = Folder(path=str(tmp_path / "nothing"), labels=None, truth=[], on_missing="keep")
    with pytest.raises(FolderError, match=r"download\.folder\.path: there is no directory"):
        select(params)


def test_a_cell_with_spaces_names_the_file_with_them_or_without() -> None:
    paths = {" lead.jpg", "a.jpg", "b.jpg", " b.jpg"}
    text = "title,image_path\nx, lead.jpg\ny, a.jpg \nz, b.jpg\nw,b.jpg \n"
    assert parse(text, paths, []) == {
        " lead.jpg": {"title": "x"},
        "a.jpg": {"title": "y"},
        " b.jpg": {"title": "z"},
        "b.jpg": {"title": "w"},
    }


@pytest.mark.parametrize(
    ("cell", "cause"),
    [
        ("f.jp2", r"passed over, as its name ends in none of \.apng, \.avif,.*convert it"),
        ("A.JPG", "case matters, and there is 'a.jpg'"),
        (".secret/b.jpg", "hidden files and folders are skipped"),
        ("sub/../a.jpg", "found by another path; image_path is relative, without"),
        ("again/c.jpg", "of several links to one folder the first is taken"),
        ("x" * 300 + ".jpg", "there is no such file"),
        ("none.jpg", "there is no such file; image_path is relative to it"),
    ],
)
def test_the_cause_why_a_named_file_is_no_image(tmp_path: Path, cell: str, cause: str) -> None:
    folder = make(
        tmp_path / "photos", "a.jpg", "f.jp2", ".secret/b.jpg", "above/c.jpg", "sub/d.jpg"
    )
    (folder / "again").symlink_to(folder / "above")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"image_path,title\n{cell},x\n")
    params = Folder(path=str(folder), labels=str(labels), truth=[], on_missing="keep")
    with pytest.raises(
        FolderError, match=rf"line 2: '{cell}' is no image under .*photos: .*{cause}"
    ):
        select(params)


@pytest.mark.parametrize(("on_missing", "ids"), [("keep", 3), ("drop", 1)])
def test_images_the_csv_does_not_name(tmp_path: Path, on_missing: str, ids: int) -> None:
    make(tmp_path / "photos", *PATHS)
    csv_path = tmp_path / "labels.csv"
    csv_path.write_text(
        "image_path,object,attribute,product_id,closure\na.jpg,Boat Shoes,Red,p1,laces; zipper"
    )
    selection = select(
        Folder.model_validate(
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
        Folder(path="photos", labels=None, truth=truth, on_missing="keep")


def test_a_missing_csv_is_told(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    with pytest.raises(FolderError, match="there is no file"):
        select(
            Folder(path=str(tmp_path), labels=str(tmp_path / "x.csv"), truth=[], on_missing="keep")
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


def test_a_byte_that_is_not_utf8_is_named_by_its_line_far_into_the_file() -> None:
    text = ("image_path,title\n" + "".join(f"{n}.jpg,caf\xe9\n" for n in range(150_000))).encode()
    with pytest.raises(FolderError, match=r"line 150002: byte 0xc3 is not UTF-8"):
        parse(text + b"x.jpg,caf\xc3")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_are_found_again_behind_others_of_several_lines(end: str) -> None:
    rows = ["image_path,title", 'sub/c.JPG,"\xe9 one\n\ntwo"', "", "a.jpg,two", "sub/b.png,\u9774"]
    assert parse("\ufeff" + end.join(rows)) == {
        "a.jpg": {"title": "two"},
        "sub/b.png": {"title": "\u9774"},
        "sub/c.JPG": {"title": "\xe9 one\n\ntwo"},
    }


def test_a_csv_that_changes_while_photos_are_read_is_told(tmp_path: Path) -> None:
    make(tmp_path / "photos", *PATHS)
    labels = tmp_path / "labels.csv"
    labels.write_text("image_path,title\na.jpg,x\nsub/b.png,y\n")
    params = Folder(path=str(tmp_path / "photos"), labels=str(labels), truth=[], on_missing="keep")
    rows = select(params).rows
    with labels.open("r+") as file:
        file.write("image_path,title\nsub/b.png,y\na.jpg,x\n")
    with pytest.raises(FolderError, match=r"labels.csv, line 2: the file was changed while"):
        list(rows)


def test_a_photo_takes_a_hundred_bytes_until_its_turn_comes() -> None:
    title = "A shoe of leather with laces and a heel as its shop describes it and others do not"

    def names(rows: int) -> Iterator[str]:
        return (f"{number % 100:05d}/{number:07d}.bmp" for number in range(rows))

    def peak(rows: int) -> int:
        csv_rows = "".join(f"{name},{title}\n" for name in names(rows))
        file = io.BytesIO(f"image_path,title\n{csv_rows}".encode())
        del csv_rows
        arrow = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            paths = SortedNames(names(rows))
            labels = read_labels_csv(file, "labels.csv", [], paths, "photos")
            found = sum(labels.of(*place) == {"title": title} for place in enumerate(paths))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert found == len(labels) == rows
        return most + pa.total_allocated_bytes() - arrow

    peak(1)  # what is made once
    fewer, more = 1_000, 6_000
    assert (peak(more) - peak(fewer)) / (more - fewer) < 100
