"""What every registered data set must do, one of this test's own among them."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from compositional_miniature import UT_TRUTH, cgqa, mit_states, photo, ut_zappos, write_folder
from hub_miniature import cifar100

from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.datasets.dataset import DataSet
from compositional_prompts.datasets.registry import DATASETS
from compositional_prompts.deployment.model_card import BaseModel, Exported, write_card
from compositional_prompts.files.tables import IMAGE, read_table
from compositional_prompts.project.whole_params import Params, read_all_params
from compositional_prompts.reporting.content.limits import limits

ROOT = Path(__file__).parents[2]


# Known to this test only: the one that the document adds.
(_CODE,) = re.findall(
    r"^```python\n(.+?)^```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL | re.MULTILINE
)
_added: dict[str, Any] = {"__name__": "squares"}
exec(compile(_CODE, "docs/architecture.md", "exec", dont_inherit=True), _added)
Squares: type[DataSet] = _added["Squares"]


def folder_of_photos(root: Path) -> dict[str, Any]:
    write_folder(root / "photos", {f"{n}.jpg": photo(n) for n in range(3)})
    (root / "labels.csv").write_text("image_path,attribute,object,closure\n0.jpg,Red,Shoe,laces\n")
    return {
        "path": str(root / "photos"),
        "labels": str(root / "labels.csv"),
        "truth": ["closure"],
        "on_missing": "keep",
    }


def feed_of_a_shop(root: Path) -> dict[str, Any]:
    write_folder(root / "photos", {f"{n}.jpg": photo(n) for n in range(3)})
    lines = [f"{n}\thttps://a.b/{n}.jpg\tRed\tShoes > Clogs\n" for n in range(3)]
    (root / "feed.tsv").write_text("id\timage_link\tcolor\tproduct_type\n" + "".join(lines))
    return {"file": str(root / "feed.tsv"), "photos": str(root / "photos")}


def fashion_products(root: Path) -> dict[str, Any]:
    text = ("masterCategory", "articleType", "baseColour", "productDisplayName")
    rows = [
        {"id": n, "image": {"bytes": photo(n), "path": None}}
        | dict(zip(text, ("Footwear", "Flats", "Navy Blue", f"Shoe {n}"), strict=True))
        for n in range(6)
    ]
    columns = [pa.field("id", pa.int64()), *(pa.field(name, pa.string()) for name in text)]
    schema = pa.schema([*columns, pa.field("image", IMAGE)])
    (root / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema), root / "data" / "train.parquet")
    return {"source": str(root)}


def of_the_hub(root: Path) -> dict[str, Any]:
    labels = {"image": "img", "attribute": "coarse_label", "object": "fine_label"}
    named = dict.fromkeys(("image_id", "product_id", "title")) | labels
    truth = [{"group": "kind", "column": "coarse_label"}]
    return {"source": str(cifar100(root / "cifar100")), "columns": named | {"truth": truth}}


def samples_in_tars(root: Path) -> dict[str, Any]:
    for shard in range(2):
        with webdataset.TarWriter(str(root / f"{shard:05d}.tar")) as writer:
            for n in range(2):
                values = {"kind": "Shoe", "colour": "red", "caption": f"a shoe, no. {n}"}
                image = {"__key__": f"{n:04d}", "jpg": photo(2 * shard + n)}
                writer.write(image | {"json": json.dumps(values if n else {})})
    columns: dict[str, Any] = dict.fromkeys(("image", "image_id", "product_id"))
    columns |= {"attribute": "colour", "object": "kind", "title": "caption"}
    columns["truth"] = [{"group": "color", "column": "colour"}]
    return {"shards": str(root / "{00000..00001}.tar"), "columns": columns}


def prepared(files: dict[str, bytes]) -> Callable[[Path], dict[str, Any]]:
    return lambda root: {"path": str(write_folder(root / "data", files))}


MINIATURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "sample": lambda root: {"images": 4},
    "fashion_products": fashion_products,
    "hub": of_the_hub,
    "ut_zappos": prepared(ut_zappos().prepared() | {"meta-data.csv": UT_TRUTH}),
    "mit_states": prepared(mit_states().prepared()),
    "cgqa": prepared(cgqa().prepared()),
    "vaw": prepared(cgqa().prepared()),
    "folder": folder_of_photos,
    "webdataset": samples_in_tars,
    "feed": feed_of_a_shop,
    "squares": lambda root: {"squares": 5},
}
"""How little of each data set is drawn; what it does not say is as in params.yaml."""
WITHOUT_TRUTH = {"mit_states", "cgqa", "vaw"}
OUTPUTS = ("catalog", "truth", "rejected", "listed-pairs", "metrics")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    DATASETS.append(Squares)
    yield
    DATASETS.remove(Squares)


@pytest.fixture
def params(one: type[DataSet], tmp_path: Path) -> Params:
    """The whole of params.yaml, without the sections of the data sets that are not chosen."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    section = document["download"].get(one.name, {}) | MINIATURES[one.name](tmp_path)
    for other in DATASETS:
        document["download"].pop(other.name, None)
    document["download"] |= {"dataset": one.name, one.name: section}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    return read_all_params(tmp_path / "params.yaml")


every_data_set = pytest.mark.parametrize("one", [*DATASETS, Squares], ids=lambda one: one.name)


def test_every_data_set_has_a_miniature() -> None:
    assert [one.name for one in DATASETS] == list(MINIATURES)


@every_data_set
def test_it_is_downloaded(
    one: type[DataSet], params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    paths = {f"--{name}": str(out / name) for name in OUTPUTS}
    paths["--params"] = str(tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["download.py", *(part for pair in paths.items() for part in pair)]
    )
    try:
        runpy.run_path(str(ROOT / "stages" / "download.py"), run_name="__main__")
    except SystemExit as ended:
        assert not ended.code
    catalog = read_labels(out / "catalog")
    known = read_table(out / "truth", TRUTH)["image_id"].to_pylist()
    assert catalog.num_rows > 2
    assert catalog["attribute"].null_count < catalog.num_rows
    assert set(known) <= set(catalog["image_id"].to_pylist())
    assert bool(known) != (one.name in WITHOUT_TRUTH)


@every_data_set
def test_its_rows_are_the_same_again(one: type[DataSet], params: Params) -> None:
    first, second = (list(params.download.chosen.select(params.base).rows) for _ in range(2))
    assert [row._asdict() for row in first] == [row._asdict() for row in second]


@every_data_set
def test_the_report_says_what_limits_its_figures(one: type[DataSet], params: Params) -> None:
    shown = limits(params.download, params.weights, params.blip2_features)
    assert shown[0] == one.caveat
    assert all(one.caveat != other.caveat for other in DATASETS if other is not one)


@every_data_set
def test_the_model_card_says_what_it_is(
    one: type[DataSet], params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "tests" / "example_metrics", tmp_path / "metrics")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    exported = Exported(
        name="captioner",
        merged=False,
        base=BaseModel("models/blip2", on_hub=False),
        dtype="float32",
        begin="",
        adapter={"r": 1, "lora_alpha": 1, "lora_dropout": 0.0, "target_modules": ["q_proj"]},
        grammar=None,
        license_id="mit",
        measured=True,
    )
    write_card(exported, params, tmp_path)
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert f"**Data:** {one.description}, " in card
    assert ("nothing of others is in them" in card) == one.generated
    assert one.generated or one.licence in card
    assert ("generated drawings only" in card) == one.generated
    assert ("fashion" in card.lower()) == (one.name == "fashion_products")


def test_what_lies_on_the_hub_is_linked() -> None:
    (fashion,) = (one for one in DATASETS if one.name == "fashion_products")
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["download"][fashion.name]
    pinned = section | {"source": "some/photos", "revision": "abc"}
    assert fashion.model_validate(pinned).hub_repository() == ("some/photos", "abc")
    assert fashion.model_validate(pinned | {"source": "/a/b"}).hub_repository() is None
