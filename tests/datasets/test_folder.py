"""A user's own directory: its images, and what a table may say of them."""

import csv
import io
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from base_section import base_section
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from named_files import make
from pydantic import ValidationError

from compositional_prompts.catalog.image_files import FolderError
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.columns import Columns
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.folders.folder import Folder
from compositional_prompts.datasets.folders.image_labels import FileLabels, LabelFile
from compositional_prompts.datasets.folders.named_images import NamedImages
from compositional_prompts.files.sorted_names import SortedNames

BASE = base_section(Path("rows"), workers=1)
CUSTOMARY = Columns(**dict.fromkeys(Columns.model_fields, None) | {"truth": []})
COLUMNS = ("title", "product_id", "color", "closure")
TRUTH = ["color", "closure"]
PATHS = {"a.jpg", "sub/b.png", "sub/c.JPG"}


def folder(path: Path, **values: Any) -> Folder:
    columns = dict.fromkeys(Columns.model_fields) | {"truth": []} | values.pop("columns", {})
    given = {"labels": None, "truth": [], "missing_labels": [], "on_missing": "keep"} | values
    return Folder.model_validate({"path": str(path), "columns": columns, **given})


def select(data_set: Folder) -> Selection:
    return data_set.select(BASE)


def rows(data_set: Folder) -> dict[str, CatalogRow]:
    return {row.image_id: row for row in select(data_set).rows}


def parse(
    file: Path,
    text: str | bytes,
    paths: Iterable[str] = PATHS,
    truth: Sequence[str] = TRUTH,
) -> dict[str, dict[str, str | None]]:
    """What a CSV says of images, without what it says nothing of."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    names = SortedNames(paths)
    images = NamedImages(names, Path("photos"))
    labels = FileLabels([LabelFile(file)], images, CUSTOMARY, truth, [])
    found = {path: labels.of(position, path) for position, path in enumerate(names)}
    labels.close()
    assert len(labels) == sum(said is not None for said in found.values())
    return {
        path: {name: word for name, word in {**said._asdict(), **said.truth}.items() if word}
        for path, said in found.items()
        if said is not None and said._replace(truth={})
    }


def plain(said: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Without the truth that stands beside as a mapping."""
    return {
        path: {name: word for name, word in values.items() if name != "truth"}
        for path, values in said.items()
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def test_a_dangling_link_is_a_row_without_bytes(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "shoe.jpg?v=123", "notes.txt")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nothing.jpg")
    selection = select(folder(tmp_path))
    assert {row.image_id: row.image for row in selection.rows} == {
        "a/1.jpg": b"a/1.jpg",
        "dangling.jpg": None,
        "shoe.jpg?v=123": b"shoe.jpg?v=123",
    }
    assert selection.passed_over == {"txt": 1}
    assert selection.columns_kept_out is None


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"download\.folder\.path: there is no directory"):
        select(folder(tmp_path / "nothing"))


def test_the_four_columns_and_truth_are_found_by_their_names(tmp_path: Path) -> None:
    make(tmp_path / "photos", "a.jpg")
    (tmp_path / "labels.csv").write_text("image_path,attribute,object,color\na.jpg,Red,Shoe,navy\n")
    labels = str(tmp_path / "labels.csv")
    row = rows(folder(tmp_path / "photos", labels=labels, truth=["color", "material"]))["a.jpg"]
    assert (row.attribute, row.object) == ("Red", "Shoe")
    assert row.truth == {"color": "navy", "material": None}


def test_a_cell_with_spaces_names_the_file_with_them_or_without(file: Path) -> None:
    paths = {" lead.jpg", "a.jpg", "b.jpg", " b.jpg", " quoted.jpg"}
    text = 'title,image_path\nx, lead.jpg\ny, a.jpg \nz, b.jpg\nw,b.jpg \nv," quoted.jpg"\n'
    assert plain(parse(file, text, paths, [])) == {
        " lead.jpg": {"title": "x"},
        "a.jpg": {"title": "y"},
        " b.jpg": {"title": "z"},
        "b.jpg": {"title": "w"},
        " quoted.jpg": {"title": "v"},
    }


@pytest.mark.parametrize(
    "cell",
    [
        "sub/b.png",
        "./sub/b.png",
        "sub\\b.png",
        "photos/sub/b.png",
        "data/photos/sub/b.png",
        "/home/other/photos/sub/b.png",
        "C:\\Users\\other\\photos\\sub\\b.png",
        "../photos/sub/b.png",
        "'sub/b.png",
        "sub/b",
        "photos/sub/b",
    ],
)
def test_an_image_is_found_however_it_is_named(file: Path, cell: str) -> None:
    assert plain(parse(file, f"image_path,title\n{cell},x\n")) == {"sub/b.png": {"title": "x"}}


def test_a_backslash_that_a_name_has_is_no_folder(file: Path) -> None:
    paths = {"sub\\b.png", "sub/b.png"}
    assert set(parse(file, "image_path,title\nsub\\b.png,x\n", paths)) == {"sub\\b.png"}


@pytest.mark.parametrize(
    ("cell", "cause"),
    [
        ("f.jp2", r"passed over, as its name ends in none of \.apng, \.avif,.*convert it"),
        ("A.JPG", "case matters, and there is 'a.jpg'"),
        (".secret/b.jpg", "hidden files and folders are skipped"),
        ("sub/../a.jpg", "found by another path; write it relative to the folder, without"),
        ("again/c.jpg", "of several links to one folder the first is taken"),
        ("x" * 300 + ".jpg", "there is no such file"),
        ("none.jpg", "there is no such file; an image is named by its path"),
        ("other/sub/d.jpg", r"there is 'sub/d.jpg'; leave out the folders before it, or rename"),
        ("d.jpg", "there is 'sub/d.jpg'; write the folders too"),
    ],
)
def test_the_cause_why_a_named_file_is_no_image(tmp_path: Path, cell: str, cause: str) -> None:
    photos = make(
        tmp_path / "photos", "a.jpg", "f.jp2", ".secret/b.jpg", "above/c.jpg", "sub/d.jpg"
    )
    (photos / "again").symlink_to(photos / "above")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"image_path,title\n{cell},x\n")
    with pytest.raises(
        FolderError, match=rf"line 2: '{cell}' is no image under .*photos: .*{cause}"
    ):
        select(folder(photos, labels=str(labels)))


def test_names_none_of_which_is_one_of_an_image_are_an_error(file: Path) -> None:
    text = "image_path,title\n" + "".join(f"{n}.jpg,y\n" for n in range(9))
    with pytest.raises(FolderError, match=r"line 2: '0.jpg' is no image.*None of 9 names is one"):
        parse(file, text)


def test_a_row_whose_image_is_not_there_is_set_aside(tmp_path: Path) -> None:
    make(tmp_path / "photos", "a.jpg")
    csv_path = tmp_path / "labels.csv"
    missing = [f"{n}.jpg" for n in range(7)]
    csv_path.write_text(
        "\n".join(["image_path,title", "a.jpg,x", *(f"{n},y" for n in missing * 2)])
    )
    selection = select(folder(tmp_path / "photos", labels=str(csv_path)))
    there, *aside = selection.rows
    assert (there.image_id, there.title, selection.total) == ("a.jpg", "x", 8)
    assert [row.image_id for row in aside] == missing
    assert all(row.image is None and row.title is None for row in aside)
    assert "line 3: '0.jpg' is no image under" in aside[0].path
    assert "there is no such file" in aside[0].path
    assert aside[-1].path.endswith("line 9: '6.jpg'")


@pytest.mark.parametrize(("on_missing", "ids"), [("keep", 3), ("drop", 1)])
def test_images_the_csv_does_not_name(tmp_path: Path, on_missing: str, ids: int) -> None:
    make(tmp_path / "photos", *PATHS)
    csv_path = tmp_path / "labels.csv"
    csv_path.write_text(
        "image_path,object,attribute,product_id,closure\na.jpg,Boat Shoes,Red,p1,laces; zipper"
    )
    selection = select(
        folder(tmp_path / "photos", labels=str(csv_path), truth=TRUTH, on_missing=on_missing)
    )
    found = list(selection.rows)
    assert len(found) == selection.total == ids
    assert selection.dropped == {"missing_label": 3 - ids}
    row = found[0]
    assert (row.image_id, row.product_id, row.image) == ("a.jpg", "p1", b"a.jpg")
    assert (row.attribute, row.object, row.title) == ("Red", "Boat.Shoes", None)
    assert row.truth == {"color": None, "closure": "laces; zipper"}
    for other in found[1:]:
        assert (other.product_id, other.attribute) == (other.image_id, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"truth": ["color", "title"]}, "title is a column with a meaning of its own"),
        ({"truth": ["a", "a"]}, "names the column 'a' 2 times"),
        (
            {"truth": ["a"], "columns": {"truth": [{"group": "a", "column": "b"}]}},
            "truth and columns.truth name the group 'a' 2 times",
        ),
        ({"columns": {"image_id": "id"}}, "called by its path, so it must be null"),
        ({"columns": {"attribute": "kind"}}, "name it as object"),
        ({"labels": ["object", "colour"]}, "a level of folders 'colour', expected attribute, "),
        ({"labels": ["object", "object"]}, "labels names the level 'object' 2 times"),
        ({"labels": ["attribute"]}, "where there is one label only, it is the object"),
        ({"labels": []}, "at least 1 item"),
    ],
)
def test_parameters_that_mean_nothing_are_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        folder(Path("photos"), **values)


def test_a_missing_csv_is_told(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    with pytest.raises(FolderError, match="there is no file"):
        select(folder(tmp_path, labels=str(tmp_path / "x.csv")))


def test_byte_order_mark_crlf_quotes_and_blank_lines(file: Path) -> None:
    text = '\ufeffimage_path,title\r\n\r\n"a.jpg","Shoe, ""Air""\r\nred"\r\n./sub/b.png, Boot \r\n'
    assert plain(parse(file, text)) == {
        "a.jpg": {"title": 'Shoe, "Air"\r\nred'},
        "sub/b.png": {"title": "Boot"},
    }


def test_a_header_alone_labels_nothing(file: Path) -> None:
    assert parse(file, "image_path,title\n") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column names the images; found none"),
        ("colr,title\na.jpg,x\n", r"no column names the images; found colr, title"),
        ("image_path,colr\na.jpg,red\n", r"no column says anything of the images; found .*colr"),
        ("image_path,title,title\na.jpg,x,y\n", r"the column 'title' stands there twice"),
        ("image_path\nA.jpg\n", r"line 2: 'A.jpg' is no image"),
        ("image_path,title\n,x\n", r"line 2: image_path is empty"),
        ("image_path,object\na.jpg,x\n./a.jpg,y\n", r"line 3: 'a.jpg' was already named in.*ine 2"),
        ("image_path,title,color\na.jpg,x,b\na.jpg,y,b\n", r"line 3: 'a.jpg' was already named"),
        ("image_path,title\na.jpg,x\na.jpg,\n", r"line 3: 'a.jpg' was already named in .*line 2"),
        ("image_path,title\na.jpg,x,y\n", r"line 2: 3 cells, expected 2"),
        ("image_path,title\na.jpg\n", r"line 2: 1 cells, expected 2"),
        ("image_path,attribute\na.jpg,Red\n", r"a column 'attribute' and none of objects"),
        ('image_path,title\na.jpg,"x\n', r"line 2: not CSV"),
        (b"image_path,title\na.jpg,ok\nsub/b.png,caf\xe9\n", r"line 3: byte 0xe9 is not UTF-8"),
        ("image_path,title\na.jpg,x\n".encode("utf-16"), r"is UTF-16 .*in Excel: Save as"),
    ],
)
def test_a_wrong_csv_names_the_line(file: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(file, text)


CELL = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="_"), max_size=12
).map(str.strip)
a_table = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@a_table
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
    file: Path, table: dict[str, dict[str, str]], columns: list[str], end: str, mark: bool
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator=end)
    writer.writeheader()
    for path, values in table.items():
        writer.writerow({"image_path": path, **values})
    content = buffer.getvalue().encode("utf-8-sig" if mark else "utf-8")
    expected = {
        path: {name: text for name, text in values.items() if text}
        for path, values in table.items()
    }
    assert plain(parse(file, content)) == expected


@a_table
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_by_line(file: Path, content: bytes) -> None:
    try:
        labels = parse(file, b"image_path,title\n" + content)
    except ValueError as error:
        assert "labels.csv, line " in str(error)
    else:
        assert set(labels) <= PATHS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_are_found_again_behind_others_of_several_lines(file: Path, end: str) -> None:
    text = ["image_path,title", 'sub/c.JPG,"\xe9 one\n\ntwo"', "", "a.jpg,two", "sub/b.png,\u9774"]
    assert plain(parse(file, "\ufeff" + end.join(text))) == {
        "a.jpg": {"title": "two"},
        "sub/b.png": {"title": "\u9774"},
        "sub/c.JPG": {"title": "\xe9 one\n\ntwo"},
    }


def test_a_csv_that_changes_while_photos_are_read_is_told(tmp_path: Path, file: Path) -> None:
    make(tmp_path / "photos", *PATHS)
    file.write_text("image_path,title\na.jpg,x\nsub/b.png,y\n")
    found = select(folder(tmp_path / "photos", labels=str(file))).rows
    with file.open("r+") as changed:
        changed.write("image_path,title\nsub/b.png,y\na.jpg,x\n")
    with pytest.raises(ValueError, match=r"labels.csv.*: the file was changed while"):
        list(found)


def test_a_photo_takes_a_hundred_bytes_until_its_turn_comes(file: Path) -> None:
    title = "A shoe of leather with laces and a heel as its shop describes it and others do not"

    def names(count: int) -> Iterator[str]:
        return (f"{number % 100:05d}/{number:07d}.bmp" for number in range(count))

    def peak(count: int) -> int:
        with file.open("w") as text:
            text.write("image_path,title\n")
            text.writelines(f"{name},{title}\n" for name in names(count))
        arrow = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            images = NamedImages(SortedNames(names(count)), Path("photos"))
            labels = FileLabels([LabelFile(file)], images, CUSTOMARY, [], [])
            said = (labels.of(*place) for place in enumerate(images.paths))
            found = sum(one is not None and one.title == title for one in said)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert found == len(labels) == count
        labels.close()
        return most + pa.total_allocated_bytes() - arrow

    peak(1)  # what is made once
    fewer, more = 500, 2_500
    assert (peak(more) - peak(fewer)) / (more - fewer) < 100
