"""Data sets of the hub: their layout, classes, splits, and what names their photos."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from base_section import base_section
from hub_miniature import (
    CIFAR10,
    PHOTO,
    cifar10,
    cifar100,
    classes,
    clothing,
    photos,
    write_parquet,
)
from huggingface_hub.errors import IncompleteSnapshotError
from pydantic import ValidationError

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.columns import ColumnError
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.hub.hub_data_set import Hub
from compositional_prompts.datasets.hub.hub_layout import HubError, find_files
from compositional_prompts.files import hub as files_hub

ROOT = Path(__file__).parents[2]
BASE = base_section(Path("rows"), workers=1)
NAMES = ("image", "image_id", "product_id", "attribute", "object", "title")


def parameters(source: Path | str, *, columns: dict[str, Any], **changes: Any) -> Hub:
    values: dict[str, Any] = {
        "source": str(source),
        "revision": None,
        "subset": None,
        "splits": None,
        "keep_splits": False,
        "columns": dict.fromkeys(NAMES) | {"truth": []} | columns,
        "filters": [],
        "min_pair_images": 1,
        "missing_labels": ["NA"],
        "on_missing": "keep",
        "limit": None,
    }
    return Hub.model_validate(values | changes)


def select(data_set: Hub) -> Selection:
    return data_set.select(BASE)


def rows(data_set: Hub) -> list[CatalogRow]:
    return list(select(data_set).rows)


LABEL = {"image": "img", "object": "label"}


def test_cifar_10_is_read_with_its_splits_and_classes(tmp_path: Path) -> None:
    params = parameters(cifar10(tmp_path), columns=LABEL, keep_splits=True)
    selection = select(params)
    found = list(selection.rows)
    assert (selection.total, selection.columns_kept_out) == (30, [])
    assert [row.object for row in found] == [CIFAR10[n % 10] for n in [*range(10), *range(20)]]
    assert {row.attribute for row in found} == {None}
    assert [row.pair_split for row in found] == ["test"] * 10 + ["train"] * 20
    assert found[0].image_id == "plain_text/test-00000-of-00001/0"
    assert found[-1].image_id == found[-1].product_id == "plain_text/train-00000-of-00001/19"
    file = tmp_path / "plain_text" / "train-00000-of-00001.parquet"
    stored = pq.read_table(file)["img"].to_pylist()
    assert [row.image for row in found[10:]] == [photo["bytes"] for photo in stored]


def test_cifar_100_has_its_fine_label_as_object_and_its_coarse_one_as_truth(tmp_path: Path) -> None:
    truth = [{"group": "kind", "column": "coarse_label"}]
    columns = {"image": "img", "object": "fine_label", "truth": truth}
    selection = select(parameters(cifar100(tmp_path), columns=columns, splits=["train"]))
    first, second, *_ = selection.rows
    assert (first.object, first.truth) == ("apple", {"kind": "fruit and vegetables"})
    assert (second.object, second.truth) == ("aquarium.fish", {"kind": "fish"})
    assert (selection.total, first.pair_split) == (16, None)


def test_clothes_are_grouped_by_who_sent_them(tmp_path: Path) -> None:
    params = parameters(
        clothing(tmp_path),
        columns={"image": "image", "product_id": "sender_id", "object": "label"},
        missing_labels=["Not sure", "Skip", "Other"],
        on_missing="drop",
    )
    selection = select(params)
    found = list(selection.rows)
    assert selection.dropped == {
        "filtered": 0, "over_limit": 0, "missing_label": 9, "rare_pair": 0,
    }  # fmt: skip
    assert {row.object for row in found} == {"T-Shirt", "Shoes", "Longsleeve", "Hat"}
    assert [row.product_id for row in found[:4]] == ["0", "0", "0", "1"]
    assert selection.columns_kept_out == ["kids"]


@pytest.mark.parametrize(
    ("preset", "drawn", "objects"),
    [("cifar10", cifar10, 10), ("cifar100", cifar100, 4), ("clothing", clothing, 4)],
)
def test_a_preset_reads_its_data_set(
    preset: str, drawn: Callable[[Path], Path], objects: int, tmp_path: Path
) -> None:
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())["download"]["hub"]
    changes = yaml.safe_load((ROOT / "presets" / f"{preset}.yaml").read_text())["download"]["hub"]
    columns = shipped["columns"] | changes["columns"]
    values = shipped | changes | {"columns": columns, "source": str(drawn(tmp_path))}
    found = rows(Hub.model_validate(values))
    assert len({row.object for row in found if row.object is not None}) == objects
    assert {row.attribute for row in found} == {None}
    assert (found[0].pair_split is None) == (preset == "clothing")


def test_a_name_made_of_file_and_row_stays_whatever_is_left_out(tmp_path: Path) -> None:
    source = cifar10(tmp_path)
    every = {row.image_id: row.image for row in rows(parameters(source, columns=LABEL))}
    filters = [{"column": "label", "values": ["frog", "ship"]}]
    some = rows(parameters(source, columns=LABEL, splits=["train"], filters=filters))
    (source / "plain_text" / "test-00000-of-00001.parquet").unlink()
    fewer = rows(parameters(source, columns=LABEL, filters=filters, limit=3))
    names = [f"plain_text/train-00000-of-00001/{n}" for n in (6, 8, 16, 18)]
    assert [row.image_id for row in some] == names
    assert [row.image_id for row in fewer] == names[:3]
    assert all(every[row.image_id] == row.image for row in some)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_photos_that_are_bytes_alone_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    stored = [photo["bytes"] for photo in photos(5).to_pylist()]
    columns = {"photo": pa.array([*stored[:4], None], kind), "text": ["a", "b", None, "a", "b"]}
    write_parquet(tmp_path / "data" / "train.parquet", columns, group=2)
    named = {"image": "photo", "object": "text"}
    found = rows(parameters(tmp_path, columns=named, on_missing="drop"))
    assert [row.image for row in found] == [stored[0], stored[1], stored[3], None]
    assert [row.path for row in found] == [f"data/train/{n}" for n in (0, 1, 3, 4)]


def test_classes_are_known_whatever_the_column_is_stored_as(tmp_path: Path) -> None:
    features = {
        "label": classes(["cat", "dog"]),
        "tags": {"_type": "List", "feature": classes("xy")},
    }
    image = pa.field("image", PHOTO)
    label = pa.field("label", pa.int8(), nullable=False)
    tags = pa.field("tags", pa.list_(pa.int64()))
    table = pa.table(
        [photos(3), pa.array([1, 0, -1], pa.int8()), [[0, 1], [], [1]]],
        schema=pa.schema([image, label, tags]),
    )
    columns = {name: table[name] for name in table.column_names}
    file = write_parquet(tmp_path / "train.parquet", columns, features)
    stored = pq.read_table(file)
    pq.write_table(stored.cast(table.schema.with_metadata(stored.schema.metadata)), file)
    truth = [{"group": "letter", "column": "tags"}]
    found = rows(
        parameters(tmp_path, columns={"image": "image", "object": "label", "truth": truth})
    )
    assert [row.object for row in found] == ["dog", "cat", None]
    assert [row.truth["letter"] for row in found] == ["x;y", None, "y"]


def test_numbers_without_classes_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_parquet(tmp_path / "train.parquet", {"image": photos(2), "label": [3, 4]})
    found = rows(parameters(tmp_path, columns={"image": "image", "object": "label"}))
    assert [row.object for row in found] == ["3", "4"]
    assert "column 'label' holds numbers, and the data set names no classes" in caplog.text
    features = {"label": {"_type": "Wrong", "names": 3}}
    write_parquet(tmp_path / "train.parquet", {"image": photos(1), "label": [3]}, features)
    with pytest.raises(HubError, match=r"train\.parquet: the features that it declares cannot be"):
        rows(parameters(tmp_path, columns={"image": "image", "object": "label"}))


def test_filters_missing_values_and_rare_labels_ask_for_words_in_any_spelling(
    tmp_path: Path,
) -> None:
    kinds = ["Boots", "boots", "BOOTS ", "na", "Cafe\u0301", "clog", "Boots"]
    sides = [*["left", "Left", " LEFT"] * 2, "right"]
    write_parquet(tmp_path / "train.parquet", {"img": photos(7), "kind": kinds, "side": sides})
    filters = [{"column": "side", "values": ["Left"]}]
    named = {"image": "img", "object": "kind"}
    found = select(
        parameters(tmp_path, columns=named, filters=filters, min_pair_images=2, on_missing="drop")
    )
    dropped = {name: count for name, count in found.dropped.items() if count}
    assert dropped == {"filtered": 1, "missing_label": 1, "rare_pair": 2}
    assert [row.object for row in found.rows] == ["Boots", "boots", "BOOTS"]


def test_rare_labels_are_counted_over_all_files(tmp_path: Path) -> None:
    for number, labels in enumerate((["a", "b", None], ["b", "c", "a"], ["b", "d", "e"])):
        columns = {"image": photos(3, number), "label": labels}
        write_parquet(tmp_path / "data" / f"part-{number}.parquet", columns, group=2)
    named = {"image": "image", "object": "label"}
    selection = select(parameters(tmp_path, columns=named, min_pair_images=2))
    assert [row.object for row in selection.rows] == ["a", "b", None, "b", "a", "b"]
    assert (selection.total, selection.dropped["rare_pair"]) == (6, 3)


def test_photos_without_any_other_column_are_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"image": photos(5)}, group=2)
    params = parameters(tmp_path, columns={"image": "image"})
    assert not params.brings_labels()
    assert [row.image_id for row in rows(params)] == [f"train/{n}" for n in range(5)]
    assert rows(parameters(tmp_path, columns={"image": "image"}, on_missing="drop")) == []


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"image": photos(0), "label": pa.array([], "str")})
    selection = select(parameters(tmp_path, columns={"image": "image", "object": "label"}))
    assert (list(selection.rows), selection.total) == ([], 0)


def test_what_is_no_parquet_is_told(tmp_path: Path) -> None:
    good = write_parquet(tmp_path / "a.parquet", {"image": photos(40), "label": ["x"] * 40})
    whole = good.read_bytes()
    named = {"image": "image", "object": "label"}
    (tmp_path / "b.parquet").write_bytes(b"not")
    with pytest.raises(HubError, match=r"b\.parquet: is no Parquet that can be read"):
        rows(parameters(tmp_path, columns=named))
    (tmp_path / "b.parquet").unlink()
    good.write_bytes(whole[:4] + b"\xff" * 3000 + whole[3004:])
    with pytest.raises(HubError, match=r"a\.parquet: row group 0 cannot be read"):
        rows(parameters(tmp_path, columns=named))
    table = pa.table([photos(1), ["x"], ["y"]], names=["image", "label", "label"])
    pq.write_table(table, good)
    with pytest.raises(HubError, match=r"a\.parquet: has the column 'label' 2 times"):
        rows(parameters(tmp_path, columns=named))


def test_parameters_must_make_sense(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"columns\.image must be the name"):
        parameters(tmp_path, columns={"object": "label"})
    with pytest.raises(ValidationError, match="names the split 'train' 2 times"):
        parameters(tmp_path, columns=LABEL, splits=["train", "train"])
    with pytest.raises(ColumnError, match="column 'labels' is missing; found img, label"):
        rows(parameters(cifar10(tmp_path), columns=LABEL | {"object": "labels"}))


def test_splits_to_keep_must_be_three(tmp_path: Path) -> None:
    for name in ("train", "extra"):
        file = tmp_path / "data" / f"{name}-00000-of-00001.parquet"
        write_parquet(file, {"img": photos(1), "label": ["x"]})
    with pytest.raises(HubError, match=r"extra-00.* is of the split 'extra', and of those to keep"):
        rows(parameters(tmp_path, columns=LABEL, keep_splits=True))
    (row,) = rows(parameters(tmp_path, columns=LABEL, keep_splits=True, splits=["train"]))
    assert row.pair_split == "train"
    with pytest.raises(HubError, match=r"splits: .* no split 'test'; found extra, train"):
        rows(parameters(tmp_path, columns=LABEL, splits=["test"]))


def names(root: Path, subset: str | None = None) -> list[tuple[str, str | None]]:
    files = find_files(str(root), None, subset, None, "download.hub").files
    return [(file.name, file.split) for file in files]


def touch(root: Path, *files: str) -> Path:
    for name in files:
        write_parquet(root / name, {"a": [1]})
    return root


def card(root: Path, text: str) -> Path:
    (root / "README.md").write_text(f"---\n{text}---\n")
    return root


def test_splits_are_told_by_the_names_of_files(tmp_path: Path) -> None:
    flat = touch(tmp_path / "a b [x]*", "b.parquet", "a.parquet", ".c/d.parquet")
    (flat / "notes.txt").write_text("train")
    assert names(flat) == [("a.parquet", "train"), ("b.parquet", "train")]
    sharded = ["data/extra.parquet", "data/test-00000-of-00001.parquet"]
    assert names(touch(tmp_path / "sharded", *sharded)) == [
        (sharded[0], None),
        (sharded[1], "test"),
    ]
    folders = ["train/0.parquet", "val/0.parquet"]
    assert names(touch(tmp_path / "folders", *folders)) == [
        (folders[0], "train"), (folders[1], "validation"),
    ]  # fmt: skip
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "sharded")
    assert names(link / ".." / "link") == names(tmp_path / "sharded")


def test_a_subset_is_chosen_by_the_card_or_a_folder(tmp_path: Path) -> None:
    root = touch(tmp_path / "x", "a/train-0.parquet", "b/c/test-0.parquet", "b/c/train-0.parquet")
    assert names(root, "b/c") == [("b/c/test-0.parquet", "test"), ("b/c/train-0.parquet", "train")]
    card(
        root, "configs:\n- config_name: one\n  data_files: a/*\n- config_name: two\n  data_dir: b\n"
    )
    assert names(root, "one") == [("a/train-0.parquet", "train")]
    assert names(root, "two") == [("b/c/test-0.parquet", "test"), ("b/c/train-0.parquet", "train")]
    with pytest.raises(HubError, match=r"download\.hub\.subset: choose one of one, two\."):
        names(root)
    with pytest.raises(HubError, match="the card names no subset 'three'; found one, two"):
        names(root, "three")


@pytest.mark.parametrize("place", ["/etc/*", "../*", "https://a.b/c.parquet", "zip://x::a.zip"])
def test_a_card_names_no_files_outside(tmp_path: Path, place: str) -> None:
    touch(tmp_path / "x", "a.parquet")
    for key in ("data_files", "data_dir"):
        card(tmp_path / "x", f"configs:\n- config_name: one\n  {key}: '{place}'\n")
        with pytest.raises(HubError, match=r"README\.md: .* names files outside of the data set"):
            names(tmp_path / "x")
    (tmp_path / "x" / "README.md").unlink()
    with pytest.raises(HubError, match=r"hub\.subset: .* names files outside of the data set"):
        names(tmp_path / "x", place)


@pytest.mark.parametrize("text", ["configs: 3\n", "configs: [\n", "configs:\n- data_files: 1\n"])
def test_a_card_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(HubError, match=r"README\.md: what it declares cannot be read"):
        names(card(touch(tmp_path, "a.parquet"), text))


def test_a_program_of_a_data_set_is_never_run(tmp_path: Path) -> None:
    root = touch(tmp_path / "evil", "data/train.parquet")
    (root / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert names(root) == [("data/train.parquet", "train")]
    assert not (tmp_path / "ran").exists()
    (root / "data" / "train.parquet").unlink()
    with pytest.raises(HubError, match=r"empty data set: .* holds no data/\*\.parquet"):
        names(root)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"download\.hub\.source: there is no folder .*nothing"):
        names(tmp_path / "nothing")


def test_only_what_is_read_is_fetched_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cifar10(tmp_path / "0123abc")
    calls = []

    def snapshot_download(repository: str, **options: Any) -> str:
        calls.append((repository, options))
        return str(source)

    monkeypatch.setattr(files_hub, "snapshot_download", snapshot_download)
    found = rows(parameters("owner/name", columns=LABEL, revision="v1", splits=["test"]))
    assert len(found) == 10
    asked = [(options["revision"], options["allow_patterns"]) for _, options in calls]
    assert asked == [("v1", ["README.md"]), ("0123abc", ["plain_text/test-*"])]
    assert {(name, options["repo_type"]) for name, options in calls} == {("owner/name", "dataset")}
    calls.clear()
    (source / "README.md").unlink()
    rows(parameters("owner/name", columns=LABEL))
    assert calls[-1][1]["allow_patterns"] == ["*.parquet"]


def test_a_cache_without_the_card_does_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = touch(tmp_path, "data/train-00000-of-00001.parquet")

    def snapshot_download(repository: str, allow_patterns: list[str], **_: Any) -> str:
        if "README.md" in allow_patterns:
            raise IncompleteSnapshotError("missing: README.md", str(source))
        return str(source)

    monkeypatch.setattr(files_hub, "snapshot_download", snapshot_download)
    (file,) = find_files("owner/name", None, None, None, "download.hub").files
    assert file.split == "train"
    assert "the card of owner/name is not in the hub's cache" in caplog.text


def test_a_hub_out_of_reach_names_the_command_that_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    command = "hf download owner/name --repo-type dataset --revision v1"
    with pytest.raises(FileNotFoundError, match=f"download.hub.source: .* run `{command}`"):
        find_files("owner/name", "v1", None, None, "download.hub")


def test_what_runs_without_the_hub_does_not_load_its_library() -> None:
    program = (
        "import sys, compositional_prompts.datasets.registry as r; "
        "sys.exit(any(name in sys.modules for name in ('datasets', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
