"""The whole pipeline on photographs in every form that people keep them in.

    python benchmarks/forms.py PHOTOGRAPHS --run RUN --photos 300

PHOTOGRAPHS is a local copy of ``ashraq/fashion-product-images-small``. Some of its footwear is
turned into each form: Parquet in the layout of the hub, class folders, tars of webdataset, and the
exports of three shops, whose photos are fetched from a server on this machine. Each form then goes
through ``dvc repro`` in a clone of the last commit, with nothing changed but params.yaml, on the
pretrained models of the finished run in the folder RUN. Trainings take few epochs: what is shown is
that the data arrive whole, and what they are named by. Fails where a photo is lost.
"""

from __future__ import annotations

import argparse
import csv
import functools
import http.server
import io
import json
import re
import shutil
import sys
import tarfile
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from measuring.cloned_project import ClonedProject

from compositional_prompts.files.tables import IMAGE

OBJECTS: Final = 5
"""Kinds of product that are taken, the most frequent."""
WORDS: Final = ("black", "white", "brown", "grey", "blue", "red", "green", "pink", "beige")


class Photo(NamedTuple):
    """A photograph and what its shop says of it."""

    name: str
    encoded: bytes
    kind: str
    color: str
    title: str


class Form(NamedTuple):
    """How photos are kept.

    Attributes:
        write: lays them out in a folder, and returns the section of ``params.yaml``.
        data_set: the name of that section.
        labels: how many an image has.
    """

    write: Callable[[Sequence[Photo], Path, str], dict[str, Any]]
    data_set: str
    labels: int


def footwear(photographs: Path, most: int) -> list[Photo]:
    """Shoes of the most frequent kinds and of colours that are words, as many of each kind."""
    columns = ["id", "image", "masterCategory", "articleType", "baseColour", "productDisplayName"]
    table = pl.concat(
        pl.read_parquet(path, columns=columns)
        for path in sorted(photographs.glob("data/*.parquet"))
    ).filter(
        (pl.col("masterCategory") == "Footwear")
        & pl.col("baseColour").str.to_lowercase().is_in(WORDS)
    )
    kinds = [kind for kind, _ in Counter(table["articleType"].to_list()).most_common(OBJECTS)]
    found: list[Photo] = []
    for kind in kinds:
        some = table.filter(pl.col("articleType") == kind).head(most // OBJECTS)
        found += [
            Photo(
                f"{row['id']}",
                row["image"]["bytes"],
                kind,
                row["baseColour"],
                row["productDisplayName"],
            )
            for row in some.iter_rows(named=True)
        ]
    return found


def hub(photos: Sequence[Photo], folder: Path, _: str) -> dict[str, Any]:
    (folder / "data").mkdir(parents=True)
    rows = [
        {
            "photo": {"bytes": photo.encoded, "path": f"{photo.name}.jpg"},
            "sku": photo.name,
            "kind": photo.kind,
            "colour": photo.color,
            "name": photo.title,
        }
        for photo in photos
    ]
    texts = [pa.field(name, pa.string()) for name in ("sku", "kind", "colour", "name")]
    schema = pa.schema([pa.field("photo", IMAGE), *texts])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "data/train-00000-of-00001.parquet")
    return {
        "source": str(folder),
        "revision": None,
        "subset": None,
        "splits": None,
        "keep_splits": False,
        "columns": columns(image="photo", image_id="sku", color="colour"),
        "filters": [],
        "min_pair_images": 1,
        "missing_labels": [],
        "on_missing": "keep",
        "limit": None,
    }


def columns(color: str, **named: str) -> dict[str, Any]:
    """The mapping of a table that calls the kind ``kind`` and the title ``name``."""
    return {
        "image": None,
        "image_id": None,
        "product_id": None,
        "attribute": color,
        "object": "kind",
        "title": "name",
        "truth": [{"group": "color", "column": color}],
        **named,
    }


def class_folders(photos: Sequence[Photo], folder: Path, _: str) -> dict[str, Any]:
    for photo in photos:
        path = folder / photo.kind / f"{photo.name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.encoded)
    return {"path": str(folder), "labels": "folders", "truth": []}


def webdataset(photos: Sequence[Photo], folder: Path, _: str) -> dict[str, Any]:
    folder.mkdir()
    shards = 3
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for photo in photos[shard::shards]:
                said = {"kind": photo.kind, "colour": photo.color, "name": photo.title}
                for ending, content in (
                    ("jpg", photo.encoded),
                    ("json", json.dumps(said).encode()),
                ):
                    member = tarfile.TarInfo(f"{photo.name}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return {
        "shards": str(folder / "{00000..00002}.tar"),
        "columns": columns(color="colour"),
    }


def shopify(photos: Sequence[Photo], folder: Path, address: str) -> dict[str, Any]:
    rows = [
        {
            "Handle": f"shoe-{photo.name}",
            "Title": photo.title,
            "Type": f"Shoes > {photo.kind}",
            "Option1 Name": "Color",
            "Option1 Value": photo.color,
            "Variant SKU": photo.name,
            "Image Src": f"{address}/{photo.name}.jpg?v=1698",
            "Image Position": "1",
            "Status": "active",
        }
        for photo in photos
    ]
    return feed(photos, folder, rows, ",")


def woocommerce(photos: Sequence[Photo], folder: Path, address: str) -> dict[str, Any]:
    rows = [
        {
            "ID": photo.name,
            "Type": "simple",
            "SKU": f"SKU-{photo.name}",
            "Name": photo.title,
            "Published": "1",
            "Categories": f"Shoes, Shoes > {photo.kind}",
            "Images": f"{address}/{photo.name}.jpg",
            "Attribute 1 name": "Color",
            "Attribute 1 value(s)": photo.color,
            "Parent": "",
        }
        for photo in photos
    ]
    return feed(photos, folder, rows, ",")


def google_merchant(photos: Sequence[Photo], folder: Path, address: str) -> dict[str, Any]:
    rows = [
        {
            "id": photo.name,
            "title": photo.title,
            "link": f"https://shop.example.org/p/{photo.name}",
            "image_link": f"{address}/{photo.name}.jpg",
            "color": photo.color,
            "product_type": f"Shoes > {photo.kind}",
            "item_group_id": photo.name,
        }
        for photo in photos
    ]
    return feed(photos, folder, rows, "\t")


def feed(
    photos: Sequence[Photo], folder: Path, rows: Sequence[dict[str, str]], delimiter: str
) -> dict[str, Any]:
    """Write a shop's export, and its photos where the server has them."""
    folder.mkdir()
    for photo in photos:
        (folder / f"{photo.name}.jpg").write_bytes(photo.encoded)
    path = folder / "products.txt"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return {
        "file": str(path),
        "attribute": {"names": ["color"], "part": "whole", "words": None},
        "truth": [{"group": "color", "names": ["color"], "part": "whole", "words": None}],
    }


FORMS: Final = {
    "hub": Form(hub, "hub", 2),
    "class folders": Form(class_folders, "folder", 1),
    "webdataset": Form(webdataset, "webdataset", 2),
    "shopify": Form(shopify, "feed", 2),
    "woocommerce": Form(woocommerce, "feed", 2),
    "google_merchant": Form(google_merchant, "feed", 2),
}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the files of a folder."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def go_through(name: str, photos: Sequence[Photo], run: Path, scratch: Path, pages: Path) -> str:
    """Run the pipeline on a form; a row of the table."""
    form = FORMS[name]
    project = ClonedProject(scratch, run)
    data = scratch / "data"
    with served(data) as address:
        section = form.write(photos, data, address)

        def choose(document: dict[str, Any]) -> None:
            document["download"]["dataset"] = form.data_set
            shipped = document["download"].get(form.data_set, {})
            document["download"][form.data_set] = {**shipped, **section}
            if "fetch" in shipped:
                document["download"][form.data_set]["fetch"]["allow_private"] = True
            document["troika_train"]["epochs"] = 3
            document["finetune"]["epochs"] = 3

        project.edit(choose)
        seconds, _ = project.repro()
    found = project.metrics("download")
    if found["images"] != len(photos) or found["labelled"] != len(photos):
        raise SystemExit(f"{name}: of {len(photos)} photos arrived: {json.dumps(found)}")
    page = pages / f"{re.sub(r'[^a-z]+', '-', name)}.html"
    shutil.copy(project.root / "reports/index.html", page)
    summary = project.metrics("summary")
    pairs = summary["pairs"]
    shown = [
        name,
        f"{found['images']}",
        f"{found['objects']}",
        f"{pairs.get('object')}",
        f"{summary['captions'].get('exact')}",
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(shown)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", type=Path, help="folder with data/*.parquet")
    parser.add_argument("--run", type=Path, default=Path(), help="a finished run (default: here)")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--pages", type=Path, help="folder that the results pages are copied to")
    arguments = parser.parse_args()
    photos = footwear(arguments.photographs, arguments.photos)
    pages = arguments.pages or Path(tempfile.mkdtemp(prefix="pages-"))
    pages.mkdir(parents=True, exist_ok=True)
    print("| form | photos | objects | object right | captions exact | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in arguments.forms:
        with tempfile.TemporaryDirectory(prefix="forms-") as scratch:
            row = go_through(name, photos, arguments.run.resolve(), Path(scratch), pages)
        print(row, flush=True)
    print(f"\nTheir pages are in {pages}.")


if __name__ == "__main__":
    sys.exit(main())
