"""Compositional data sets from folders and archives: the rows of the field's loader."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import torch
from compositional_miniature import (
    METADATA,
    SPLIT,
    UT_TRUTH,
    Miniature,
    cgqa,
    mit_archives,
    mit_states,
    torch_file,
    ut_archives,
    ut_originals,
    ut_zappos,
    write_folder,
    write_tar,
    write_zip,
)

from compositional_prompts.catalog.splitting.assignment import SplitError, make_splits
from compositional_prompts.catalog.splitting.parameters import Split
from compositional_prompts.catalog.splitting.split_tables import LISTED_PAIRS
from compositional_prompts.catalog.truth import true_words
from compositional_prompts.compute.torch_files import TorchFileError
from compositional_prompts.datasets.compositional import compositional_split
from compositional_prompts.datasets.compositional.cgqa import Cgqa
from compositional_prompts.datasets.compositional.compositional_split import (
    OTHER_SPLIT,
    ArchiveFile,
)
from compositional_prompts.datasets.compositional.mit_states import MitStates
from compositional_prompts.datasets.compositional.split_files import CompositionalError
from compositional_prompts.datasets.compositional.ut_zappos import (
    TruthError,
    UtZappos,
    photo_id,
    read_truth,
)
from compositional_prompts.datasets.compositional.vaw import Vaw
from compositional_prompts.datasets.dataset import DataSet, Selection
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.files.archives import ArchiveError
from compositional_prompts.files.downloads import DownloadError
from compositional_prompts.pipeline.params_file import read_params

PARAMS = Path(__file__).parents[2] / "params.yaml"
_DOWNLOAD, BASE = read_params(PARAMS, Download)
SHIPPED: dict[str, Any] = dict(_DOWNLOAD.model_extra or {})


def select(data_set: DataSet) -> Selection:
    return data_set.select(BASE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compositional_split, "DOWNLOADS", tmp_path / "cache")
    return tmp_path / "cache"


def local(files: dict[str, Path]) -> dict[str, ArchiveFile]:
    return {
        name: ArchiveFile(url=str(path), size=path.stat().st_size, sha256=None)
        for name, path in files.items()
    }


def from_folder(root: Path) -> UtZappos:
    return SHIPPED["ut_zappos"].model_copy(update={"path": str(root)})


def unpacked(folder: Path, data: Miniature) -> Path:
    """All archives unpacked side by side, as a user would."""
    import tarfile
    import zipfile

    archives = ut_archives(folder / "packed", data)
    root = folder / "unpacked"
    for name in ("images", "truth"):
        with zipfile.ZipFile(archives[name]) as archive:
            archive.extractall(root)
    with tarfile.open(archives["splits"]) as tar:
        tar.extractall(root, filter="data")
    return root


UT_LAYOUTS: dict[str, Callable[[Path, Miniature], UtZappos]] = {
    "prepared": lambda folder, data: from_folder(
        write_folder(folder, data.prepared() | {"meta-data.csv": UT_TRUTH})
    ),
    "original tree": lambda folder, data: from_folder(
        write_folder(
            folder,
            data.split_files()
            | {f"_images/{name}": content for name, content in ut_originals(data).items()}
            | {"meta-data.csv": UT_TRUTH},
        )
    ),
    "tree at the root": lambda folder, data: from_folder(
        write_folder(folder, data.split_files() | ut_originals(data) | {"meta-data.csv": UT_TRUTH})
    ),
    "unpacked archives": lambda folder, data: from_folder(unpacked(folder, data)),
    "archives": lambda folder, data: UtZappos(path=None, **local(ut_archives(folder, data))),
}


@pytest.mark.parametrize("layout", UT_LAYOUTS.values(), ids=UT_LAYOUTS)
def test_ut_zappos_is_the_same_from_every_layout(
    layout: Callable[[Path, Miniature], UtZappos], tmp_path: Path
) -> None:
    data = ut_zappos()
    selection = select(layout(tmp_path / "data", data))
    assert selection.dropped == {"missing_label": 1, "unlisted_pair": 1, "no_split": 1}
    rows = list(selection.rows)
    assert len(rows) == selection.total == len(data.entries) - 3 == 20
    for row, entry in zip(rows, data.entries, strict=False):
        assert row.image_id == entry["image"]
        assert row.image == data.photos[entry["image"]]
        assert (row.attribute, row.object) == (entry["attr"], entry["obj"])
        assert row.pair_split == entry["set"]
        assert row.product_id == entry["image"].rpartition("/")[2][:6]
    first, second, third = ({g: true_words(t) for g, t in row.truth.items()} for row in rows[:3])
    assert first == {
        "material": ["Canvas"],
        "closure": ["Lace up", "Zipper"],
        "heel_height": ["1in - 1 3/4in"],
        "gender": ["Women"],
    }
    assert (second["material"], second["closure"]) == (["Canvas", "Suede"], [])
    assert (second["heel_height"], second["gender"]) == ([], ["Women", "Girls"])
    assert third == {}


def field_loader(root: Path) -> dict[str, set[tuple[str, str, str]]]:
    """The photos of each split by the rules of the field's loaders, written a second time."""
    listed = set()
    for split in ("train", "val", "test"):
        text = (root / SPLIT / f"{split}_pairs.txt").read_text()
        listed |= {tuple(line.split()) for line in text.strip().split("\n")}
    found: dict[str, set[tuple[str, str, str]]] = {"train": set(), "val": set(), "test": set()}
    for one in torch.load(root / METADATA, weights_only=True):
        if one["attr"] == "NA" or (one["attr"], one["obj"]) not in listed or one["set"] == "NA":
            continue
        found[one["set"]].add((one["image"], one["attr"], one["obj"]))
    return found


def test_the_split_is_that_of_the_fields_loader(tmp_path: Path) -> None:
    params = UT_LAYOUTS["prepared"](tmp_path, ut_zappos())
    expected = field_loader(tmp_path)
    rows = list(select(params).rows)
    for split, photos in expected.items():
        assert photos
        assert photos == {
            (row.image_id, row.attribute, row.object) for row in rows if row.pair_split == split
        }


def selected(rows: Selection) -> list[tuple[str, bytes | None, str | None, str | None, str]]:
    return [
        (row.image_id, row.image, row.attribute, row.object, row.product_id) for row in rows.rows
    ]


@pytest.mark.parametrize("layout", ["prepared", "with spaces", "archives"])
def test_mit_states_is_the_same_from_every_layout(layout: str, tmp_path: Path) -> None:
    data = mit_states()
    params = SHIPPED["mit_states"].model_copy(update={"path": str(tmp_path / "data")})
    if layout == "archives":
        params = MitStates(path=None, **local(mit_archives(tmp_path / "data", data)))
    else:
        files = data.prepared()
        if layout == "with spaces":
            files = {
                name.replace("_", " ") if name.startswith("images/") else name: content
                for name, content in files.items()
            }
        write_folder(tmp_path / "data", files)
    selection = select(params)
    assert selected(selection) == [
        (
            entry["image"],
            data.photos[entry["image"]],
            entry["attr"],
            entry["obj"].replace("_", "."),
            entry["image"],
        )
        for entry in data.entries[:-1]
    ]
    assert selection.dropped["missing_label"] == 1
    assert [tuple(pair) for pair in selection.pairs] == [
        ("ancient", "clock", "train"),
        ("ancient", "coffee.table", "train"),
        ("broken", "clock", "train"),
        ("broken", "coffee.table", "test"),
    ]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of a folder, which breaks off in the middle of its first answer."""
    folder = tmp_path / "web"
    folder.mkdir()
    broken: list[bool] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def copyfile(self, source: Any, outputfile: Any) -> None:
            content = source.read()
            outputfile.write(content if broken else content[: len(content) // 2])
            broken.append(True)

    handler = partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("top", ["", "cgqa/"])
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_cgqa_comes_over_a_broken_line(
    web: tuple[str, Path], top: str, write: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compositional_prompts.files.downloads._BACKOFF_SECONDS", 0.0)
    data = cgqa()
    address, folder = web
    write(folder / "cgqa", {f"{top}{name}": one for name, one in data.prepared().items()})
    params = Cgqa(path=None, images=ArchiveFile(url=f"{address}/cgqa", size=None, sha256=None))
    selection = select(params)
    assert selected(selection) == [
        (
            entry["image"],
            data.photos[entry["image"]],
            entry["attr"].replace("_", "."),
            entry["obj"],
            entry["image"],
        )
        for entry in data.entries
    ]
    assert [path.name.partition("-")[2] for path in cache.iterdir()] == ["cgqa"]


def test_a_pinned_checksum_is_kept_to(tmp_path: Path) -> None:
    archives = local(ut_archives(tmp_path, ut_zappos()))
    archives["splits"] = archives["splits"].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DownloadError, match=r"download\.ut_zappos\.splits: .* expected 0000"):
        select(UtZappos(path=None, **archives))


def test_truth_may_be_left_out(tmp_path: Path) -> None:
    archives: dict[str, Any] = local(ut_archives(tmp_path, ut_zappos())) | {"truth": None}
    rows = list(select(UtZappos(path=None, **archives)).rows)
    assert len(rows) == 20
    assert [dict(row.truth) for row in rows] == [{}] * len(rows)


def test_photos_that_are_not_there_or_damaged_have_no_bytes(tmp_path: Path) -> None:
    data = ut_zappos()
    archives = ut_archives(tmp_path, data)
    photos = {f"ut-zap50k-images/{name}": one for name, one in ut_originals(data).items()}
    (gone, damaged) = list(photos)[:2]
    marker = b"a content to be found in the archive"
    photos[damaged] = marker
    del photos[gone]
    import zipfile

    with zipfile.ZipFile(archives["images"], "w") as archive:
        for name, content in photos.items():
            archive.writestr(name, content)
    packed = archives["images"].read_bytes()
    archives["images"].write_bytes(packed.replace(marker, b"A" + marker[1:], 1))
    rows = list(select(UtZappos(path=None, **local(archives))).rows)
    assert [row.image is None for row in rows] == [True, True] + [False] * 18
    looked, original = data.entries[0]["image"], data.entries[0]["_image"]
    assert rows[0].path == (
        f"not found: {looked} in images/, ut-zappos/images/, ut-zap50k/images/; {original} in "
        "_images/, ut-zap50k-images/, ut-zap50k-images-square/, its root, ut-zappos/_images/, "
        "ut-zappos/ut-zap50k-images/, ut-zappos/ut-zap50k-images-square/, ut-zappos/, "
        "ut-zap50k/_images/, ut-zap50k/ut-zap50k-images/, ut-zap50k/ut-zap50k-images-square/, "
        "ut-zap50k/"
    )


def test_two_photos_of_one_name_are_told_unless_one_is_written_so(tmp_path: Path) -> None:
    data = mit_states()
    files = data.prepared()
    twin = "images/ancient_coffee_table/train0.jpg"
    files["images/ancient coffee_table/train0.jpg"] = b"another"
    write_folder(tmp_path, files)
    params = SHIPPED["mit_states"].model_copy(update={"path": str(tmp_path)})
    rows = {row.image_id: row.image for row in select(params).rows}
    assert rows["ancient_coffee_table/train0.jpg"] == files[twin]
    (tmp_path / twin).rename(tmp_path / "images/ancient_coffee_table/train1.jpg")
    (tmp_path / "images" / "ancient coffee table").mkdir()
    (tmp_path / "images/ancient coffee table/train0.jpg").write_bytes(b"a third")
    with pytest.raises(CompositionalError, match=r"may be '.*' or '.*': remove one"):
        list(select(params).rows)


SPELLINGS = (
    "Levi's Shoes",
    "Levi's&#174; Shoes",
    "Levi's® Shoes",
    "Levi\u2019s®  Shoes",
    "Levi%27s Shoes",
)
ACCENTED = ("Børn Café", "Børn Cafe\u0301", "B├╕rn Caf├⌐", "B%C3%B8rn_Caf%C3%A9")
DOTTED = ("L.A.M.B.", "L.A.M.B", "L.A.M.B%2E")


@pytest.mark.parametrize(
    ("there", "listed"),
    [
        pair
        for spellings in (SPELLINGS, ACCENTED, DOTTED)
        for pair in zip(spellings, spellings[1:] + spellings[:1], strict=True)
    ],
)
@pytest.mark.parametrize("folder", ["ut-zap50k-images-square", "ut-zap50k-images"])
def test_a_folder_is_found_however_publishers_spell_it(
    there: str, listed: str, folder: str, tmp_path: Path
) -> None:
    data = ut_zappos()
    data.entries = data.entries[:1]
    data.entries[0]["_image"] = f"Shoes/{listed}/100000.1.jpg"
    where = f"{folder}/Shoes/{there}/100000.1.jpg"
    write_folder(tmp_path, data.split_files() | {where: b"the photo"})
    (row,) = select(from_folder(tmp_path)).rows
    assert (row.image, row.path) == (b"the photo", where)


def test_two_folders_of_one_brand_may_hold_the_same_photo(tmp_path: Path) -> None:
    data = ut_zappos()
    data.entries = data.entries[:1]
    data.entries[0]["_image"] = "Levi's/100000.1.jpg"
    twins = [f"_images/{brand}/100000.1.jpg" for brand in ("Levi's&#174;", "Levi's®")]
    write_folder(tmp_path, data.split_files() | dict.fromkeys(twins, b"the photo"))
    (row,) = select(from_folder(tmp_path)).rows
    assert row.image == b"the photo"


def test_photos_that_another_split_lists_are_set_aside_and_named(tmp_path: Path) -> None:
    data = mit_states()
    data.add("x/train.jpg", "broken", "coffee_table", "train")
    data.add("x/val.jpg", "broken", "coffee_table", "val")
    data.add("x/test.jpg", "broken", "coffee_table", "test")
    write_folder(tmp_path, data.prepared())
    selection = select(SHIPPED["mit_states"].model_copy(update={"path": str(tmp_path)}))
    rows = list(selection.rows)
    assert len(rows) == selection.total == 13
    aside = [row for row in rows if row.rejection is not None]
    assert [(row.image_id, row.rejection, row.path) for row in aside] == [
        (
            f"x/{split}.jpg",
            OTHER_SPLIT,
            f"x/{split}.jpg: entry {number} is of set {split}, and its pair broken coffee_table is "
            f"neither in {SPLIT}/train_pairs.txt nor in {SPLIT}/{split}_pairs.txt, but in that of "
            "test",
        )
        for number, split in ((11, "train"), (12, "val"))
    ]


def test_pairs_are_those_of_the_photos_where_no_file_lists_them(tmp_path: Path) -> None:
    data = mit_states()
    write_folder(tmp_path / "listed", data.prepared())
    bare = {name: one for name, one in data.prepared().items() if not name.endswith("pairs.txt")}
    write_folder(tmp_path / "bare", bare)
    listed, derived = (
        select(SHIPPED["mit_states"].model_copy(update={"path": str(tmp_path / name)}))
        for name in ("listed", "bare")
    )
    assert derived.pairs == listed.pairs
    assert list(derived.rows) == list(listed.rows)
    assert derived.dropped == listed.dropped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data.add("x.jpg", "broken", "coffee_table", "val"),
            rf"broken coffee_table is unseen in training and listed both in the set val of "
            rf"{METADATA} and in the set test of {METADATA}",
        ),
        (
            lambda data: [one.update(set="val") for one in data.entries],
            rf"the set train of {METADATA} has no photo",
        ),
    ],
)
def test_sets_that_give_no_split_are_told(
    change: Callable[[Miniature], object], message: str, tmp_path: Path
) -> None:
    data = mit_states()
    change(data)
    write_folder(tmp_path, {METADATA: torch_file(data.entries)})
    with pytest.raises(CompositionalError, match=message):
        select(SHIPPED["mit_states"].model_copy(update={"path": str(tmp_path)}))


@pytest.mark.parametrize(
    ("name", "one", "message"),
    [
        ("metadata.pkl", "ut_zappos", r"There is metadata\.pkl, as an older.*splits\)"),
        (
            "a/metadata.t7",
            "mit_states",
            r"There is a/metadata\.t7, .* rename it to metadata_",
        ),
        ("metadata.t7", "cgqa", r"published in https://huggingface\.co/.*download\.cgqa\.images"),
        ("metadata.t7", "vaw", r"fetched from its authors, for download\.vaw\.path"),
        (f"deep/{METADATA}", "cgqa", r"There is one in deep/: name that folder as download\.cgqa"),
        ("a.txt", "cgqa", r"in its root or cgqa/\. It is published in https"),
    ],
)
def test_a_copy_of_another_layout_is_told_what_to_fetch(
    name: str, one: str, message: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, {name: b"anything"})
    with pytest.raises(CompositionalError, match=message):
        select(SHIPPED[one].model_copy(update={"path": str(tmp_path)}))


@pytest.mark.parametrize("top", ["", "vaw-czsl/"])
def test_vaw_is_the_same_from_a_folder_and_an_archive(top: str, tmp_path: Path) -> None:
    files = {f"{top}{name}": one for name, one in cgqa().prepared().items()}
    folder = write_folder(tmp_path / "vaw", files)
    archive = ArchiveFile(url=str(write_zip(tmp_path / "vaw.zip", files)), size=None, sha256=None)
    rows = [
        list(select(params).rows)
        for params in (Vaw(path=str(folder), archive=None), Vaw(path=None, archive=archive))
    ]
    assert rows[0] == rows[1]
    assert [row.image for row in rows[0]] == list(cgqa().photos.values())


def test_pairs_of_vaw_have_a_plus_between_names_with_blanks(tmp_path: Path) -> None:
    # As in the lists of Saini et al., whose loader splits them there.
    data = Miniature({"train": [("dark blue", "t-shirt")], "val": [], "test": [("wet", "dog")]})
    data.add("1.jpg", "dark blue", "t-shirt", "train")
    data.add("2.jpg", "wet", "dog", "test")
    files = data.prepared()
    files["compositional-split-natural/train_pairs.txt"] = b"dark blue+t-shirt\n"
    found = select(Vaw(path=str(write_folder(tmp_path, files)), archive=None))
    assert [(row.attribute, row.object) for row in found.rows] == [
        ("dark.blue", "t-shirt"),
        ("wet", "dog"),
    ]


def test_a_line_of_vaw_that_is_no_pair_is_refused(tmp_path: Path) -> None:
    files = cgqa().prepared()
    files["compositional-split-natural/val_pairs.txt"] = b"wet+dog\nblue+\n"
    with pytest.raises(CompositionalError, match=r"line 2: 'blue\+' is not .* '\+' or a blank"):
        select(Vaw(path=str(write_folder(tmp_path, files)), archive=None))


def test_a_data_set_without_folder_and_archive_is_told() -> None:
    with pytest.raises(CompositionalError, match=r"download\.vaw: neither a local folder \(path\)"):
        select(Vaw(path=None, archive=None))


def changed(change: Callable[[Miniature], object]) -> dict[str, bytes]:
    data = mit_states()
    change(data)
    return data.prepared()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data.pairs["val"].append(("broken", "coffee_table")),
            r"the pair broken coffee_table is unseen in training and listed both in",
        ),
        (lambda data: data.pairs["train"].clear(), r"train_pairs\.txt lists no pair"),
        (
            lambda data: data.pairs["test"].append(("one", "two three")),
            r"test_pairs\.txt, line 2: 'one two three' is not an attribute and an object",
        ),
        (
            lambda data: data.pairs["train"].append(("ancient", "coffee.table")),
            r"objects: 'coffee\.table' and 'coffee_table' would both be written 'coffee\.table'",
        ),
        (
            lambda data: data.pairs["train"].append(("Ancient", "clock")),
            r"attributes: 'Ancient' and 'ancient' would both be written 'ancient'",
        ),
        (
            lambda data: data.pairs["train"].append(("_", "clock")),
            r"attributes: '_': an attribute or object must not be blank",
        ),
        (
            lambda data: data.add("broken_coffee_table/test0.jpg", "broken", "clock", "train"),
            r"entry 8 \(set test, broken coffee_table\) and entry 11 \(set train, broken clock\) "
            r"have the same image 'broken_coffee_table/test0\.jpg'",
        ),
        (
            lambda data: data.add("x/y.jpg", "broken", "clock", "Train"),
            r"entry 11 .*: set is 'Train', expected train, val, test or NA",
        ),
        (
            lambda data: data.add("../y.jpg", "broken", "clock", "train"),
            r"entry 11: image '\.\./y\.jpg' is no path in the data set",
        ),
        (
            lambda data: data.add("/etc/passwd", "broken", "clock", "train"),
            r"image '/etc/passwd' is no path",
        ),
        (
            lambda data: data.add("a", "broken", "clock", "train", _image="b/../../c"),
            r"_image 'b/\.\./\.\./c' is no path",
        ),
        (lambda data: data.entries.append([1]), r"entry 11: a list, expected a dictionary"),
        (
            lambda data: data.entries.append({"image": "a", "attr": "b", "obj": 1, "set": "NA"}),
            r"entry 11: 'obj' is a int, not a string",
        ),
        (
            lambda data: data.entries.append({"image": "a", "attr": "b", "set": "NA"}),
            r"entry 11: 'obj' is a NoneType",
        ),
    ],
)
def test_a_split_that_does_not_hold_together_is_told(
    change: Callable[[Miniature], object], message: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, changed(change))
    with pytest.raises(CompositionalError, match=message):
        select(SHIPPED["mit_states"].model_copy(update={"path": str(tmp_path)}))


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (METADATA, None, CompositionalError, rf"there is no {METADATA} in its root or mit-states/"),
        (METADATA, b"", TorchFileError, r"metadata.*\.t7 is no whole file of torch\.save"),
        (METADATA, torch_file({"a": 1}), CompositionalError, r"\.t7: a dict, expected a list"),
        (f"{SPLIT}/val_pairs.txt", None, CompositionalError, r"there is no .*val_pairs\.txt"),
        (f"{SPLIT}/val_pairs.txt", b"caf\xe9 x", CompositionalError, r"byte 3 is not UTF-8"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(
    name: str, content: bytes | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    files = mit_states().prepared()
    del files[name]
    write_folder(tmp_path, files | ({} if content is None else {name: content}))
    with pytest.raises(error, match=message):
        select(SHIPPED["mit_states"].model_copy(update={"path": str(tmp_path)}))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    params = SHIPPED["cgqa"].model_copy(update={"path": str(tmp_path / "x")})
    with pytest.raises(CompositionalError, match=r"download\.cgqa\.path: there is no directory"):
        select(params)


def test_an_archive_that_leads_outside_writes_nothing(tmp_path: Path, cache: Path) -> None:
    evil = write_tar(tmp_path / "evil.tar.gz", cgqa().prepared() | {"../../evil": b"x"})
    with pytest.raises(ArchiveError, match=r"'\.\./\.\./evil' is not a plain relative path"):
        select(Cgqa(path=None, **local({"images": evil})))
    assert {path.name for path in tmp_path.iterdir()} == {"evil.tar.gz", "cache"}
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Shoes/Oxfords/B/100627.72.jpg", "100627-72"),
        ("100627.72.jpg", "100627-72"),
        ("Shoes/100627.jpg", None),
        ("a.b/c", None),
    ],
)
def test_photos_are_named_by_product_and_color(path: str, expected: str | None) -> None:
    assert photo_id(path) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: no column 'CID'; found none"),
        (b"CID,Material\n", r"line 1: no column 'Closure'; found CID, Material"),
        (UT_TRUTH + b"1-1,Boots\n", r"line 5: not 9 cells"),
        (UT_TRUTH + b"1-1,,,,,,,,,,\n", r"line 5: not 9 cells"),
        (UT_TRUTH + b"100000-1,,,,,,,Suede,\n", r"line 5: '100000-1' stood before with other"),
        (UT_TRUTH + b'1-1,"\n', r"line 5: not CSV"),
        (UT_TRUTH + b"\xff", r"byte \d+ is not UTF-8"),
    ],
)
def test_a_wrong_truth_file_names_the_line(content: bytes, message: str) -> None:
    with pytest.raises(TruthError, match=rf"meta-data\.csv.*{message}"):
        read_truth(content, "meta-data.csv")


def test_truth_with_a_byte_order_mark_and_crlf_and_a_repeated_row_is_read() -> None:
    lines = UT_TRUTH.split(b"\n")
    content = b"\xef\xbb\xbf" + b"\r\n".join([*lines[:-1], lines[1], b""])
    assert read_truth(content, "meta-data.csv") == read_truth(UT_TRUTH, "meta-data.csv")


def labels(selection: Selection, left_out: set[str]) -> pa.Table:
    names = ["image_id", "product_id", "attribute", "object", "pair_split"]
    rows = [row._asdict() for row in selection.rows if row.image_id not in left_out]
    return pa.Table.from_pylist([{name: row[name] for name in names} for row in rows])


def listed(selection: Selection) -> pa.Table:
    return pa.Table.from_pylist([pair._asdict() for pair in selection.pairs], LISTED_PAIRS)


def test_listed_pairs_stay_in_the_closed_world_without_images(tmp_path: Path) -> None:
    data = ut_zappos()
    selection = select(UT_LAYOUTS["prepared"](tmp_path, data))
    split, _ = read_params(PARAMS, Split)
    lost = {
        entry["image"]
        for entry in data.entries
        if (entry["attr"], entry["obj"]) in {("Canvas", "Slippers"), ("Faux.Leather", "Slippers")}
    }
    table = labels(selection, lost)
    splits = make_splits(table, split, 7, listed(selection))
    pairs = {(row[0], row[1]): row[2:] for row in pl.DataFrame(splits.pairs).iter_rows()}
    assert pairs[("Canvas", "Slippers")] == ("test", False, 0)
    assert pairs[("Faux.Leather", "Slippers")] == ("train", True, 0)
    assert len(pairs) == 8
    assert splits.metrics["pairs"] == {"seen": 5, "unseen_val": 1, "unseen_test": 2}
    assert splits.metrics["pairs_without_images"] == 2
    without = make_splits(table, split, 7, listed(selection).slice(0, 0))
    assert without.metrics["pairs"] == {"seen": 4, "unseen_val": 1, "unseen_test": 1}


def test_images_of_pairs_that_are_not_listed_are_told(tmp_path: Path) -> None:
    selection = select(UT_LAYOUTS["prepared"](tmp_path, ut_zappos()))
    split, _ = read_params(PARAMS, Split)
    table = labels(selection, set())
    pairs = pl.DataFrame(listed(selection))
    for changed in (
        pairs.filter(pl.col("object") != "Slippers"),
        pairs.with_columns(pl.col("split").replace("test", "val")),
    ):
        with pytest.raises(SplitError, match="the data set does not list the pair"):
            make_splits(table, split, 7, changed.to_arrow().cast(LISTED_PAIRS))
