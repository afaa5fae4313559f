"""What people bring: photos of every format, tables that say what they show, archives of both."""

from __future__ import annotations

import csv
import io
import json
import random
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from compositional_miniature import mit_archives, mit_states, ut_archives, ut_zappos, write_folder
from hub_miniature import cifar100
from PIL import Image

FORMATS: Mapping[str, tuple[str, str]] = {
    "rgb.png": ("RGB", "PNG"),
    "grey.png": ("L", "PNG"),
    "palette.png": ("P", "PNG"),
    "alpha.png": ("RGBA", "PNG"),
    "deep.png": ("I;16", "PNG"),
    "bits.png": ("1", "PNG"),
    "rgb.jpg": ("RGB", "JPEG"),
    "grey.jpg": ("L", "JPEG"),
    "cmyk.jpg": ("CMYK", "JPEG"),
    "rgb.webp": ("RGB", "WEBP"),
    "alpha.webp": ("RGBA", "WEBP"),
    "moving.gif": ("P", "GIF"),
    "rgb.bmp": ("RGB", "BMP"),
    "rgb.tif": ("RGB", "TIFF"),
    "deep.tiff": ("F", "TIFF"),
    "rgb.avif": ("RGB", "AVIF"),
}


def photo(rng: random.Random, mode: str, kind: str) -> bytes:
    """A photo of patches and some noise, of 8 to 64 pixels a side."""
    width, height = rng.randint(8, 64), rng.randint(8, 64)
    noise = np.frombuffer(rng.randbytes(48), np.uint8).reshape(4, 4, 3)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200)
    elif mode == "RGBA":
        image.putalpha(image.convert("L"))
    else:
        image = image.convert(mode)
    buffer = io.BytesIO()
    options: dict[str, Any] = {}
    if kind == "GIF":
        options = {"save_all": True, "append_images": [image.rotate(90)]}
    if kind in ("JPEG", "WEBP", "TIFF", "PNG"):
        exif = Image.Exif()
        exif[0x0112] = rng.randint(0, 9)  # orientation, of which 0 and 9 are none
        options["exif"] = exif
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def random_photo(rng: random.Random) -> tuple[str, bytes]:
    """The ending of a file's name, and its content."""
    name = rng.choice(list(FORMATS))
    return name, photo(rng, *FORMATS[name])


ROWS = [
    {
        "image_path": f"{n}.jpg",
        "attribute": one,
        "object": two,
        "color": "red;white",
        "title": "A, b",
    }
    for n, (one, two) in enumerate(
        [("Canvas", "Boots"), ("Suede", "Boots"), ("Canvas", "Flats")] * 3
    )
]
"""What a table of labels says of nine photos."""


def _photos(root: Path, count: int = 9) -> None:
    rng = random.Random(0)
    write_folder(root / "photos", {f"{n}.jpg": photo(rng, "RGB", "JPEG") for n in range(count)})


def _delimited(root: Path, name: str, separator: str, rows: list[dict[str, str]]) -> None:
    with (root / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def _folder(root: Path, name: str) -> dict[str, Any]:
    _photos(root)
    if name.endswith((".csv", ".tsv")):
        _delimited(root, name, "\t" if name.endswith(".tsv") else ",", ROWS)
    elif name.endswith(".json"):
        (root / name).write_text(json.dumps(ROWS))
    else:
        (root / name).write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return {"path": "photos", "labels": name}


def _feed(root: Path, name: str) -> dict[str, Any]:
    _photos(root)
    rows = [
        {
            "id": str(n), "image_link": f"https://a.b/{n}.jpg", "color": "Red",
            "product_type": "Shoes > Clogs", "title": "Shoe",
        }
        for n in range(9)
    ]  # fmt: skip
    if name.endswith(".xml"):
        items = "".join(
            "<item>" + "".join(f"<g:{k}>{v.replace('>', '&gt;')}</g:{k}>" for k, v in row.items())
            + "</item>"
            for row in rows
        )  # fmt: skip
        head = '<?xml version="1.0"?><rss xmlns:g="http://base.google.com/ns/1.0" version="2.0">'
        (root / name).write_text(f"{head}<channel>{items}</channel></rss>")
    else:
        _delimited(root, name, "\t", rows)
    return {"file": name, "photos": "photos"}


def _hub(root: Path, name: str) -> dict[str, Any]:
    cifar100(root / "hub")
    labels = {"image": "img", "attribute": "coarse_label", "object": "fine_label", "truth": []}
    columns = dict.fromkeys(("image_id", "product_id", "title")) | labels
    return {"source": "hub", "columns": columns}


def _tars(root: Path, name: str) -> dict[str, Any]:
    rng = random.Random(0)
    mode = "w:gz" if name.endswith("gz") else "w"
    with tarfile.open(root / name, mode) as archive:
        for n in range(6):
            said = json.dumps({"kind": "Shoe", "colour": "red", "caption": "a shoe"}).encode()
            for ending, content in (("jpg", photo(rng, "RGB", "JPEG")), ("json", said)):
                member = tarfile.TarInfo(f"{n:04d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    columns: dict[str, Any] = dict.fromkeys(("image", "image_id", "product_id"))
    columns |= {"attribute": "colour", "object": "kind", "title": "caption", "truth": []}
    return {"shards": name, "columns": columns}


def _ut(root: Path, name: str) -> dict[str, Any]:
    archives = ut_archives(root, ut_zappos())
    return {
        "path": None,
        **{
            part: {"url": str(path), "size": None, "sha256": None}
            for part, path in archives.items()
        },
    }


def _mit(root: Path, name: str) -> dict[str, Any]:
    archives = mit_archives(root, mit_states())
    return {
        "path": None,
        **{
            part: {"url": str(path), "size": None, "sha256": None}
            for part, path in archives.items()
        },
    }


Written = Callable[[Path, str], dict[str, Any]]
TABLES: Mapping[str, tuple[str, Written]] = {
    "labels.csv": ("folder", _folder),
    "labels.tsv": ("folder", _folder),
    "labels.json": ("folder", _folder),
    "labels.jsonl": ("folder", _folder),
    "feed.tsv": ("feed", _feed),
    "feed.xml": ("feed", _feed),
    "*.parquet": ("hub", _hub),
}
"""Files with tables that people bring: the data set that reads each, and what writes it."""
ARCHIVES: Mapping[str, tuple[str, Written]] = {
    "photos.tar": ("webdataset", _tars),
    "photos.tar.gz": ("webdataset", _tars),
    "ut-zap50k-images.zip": ("ut_zappos", _ut),
    "ut-zap50k-data.zip": ("ut_zappos", _ut),
    "compositional_split_natural.tar.gz": ("ut_zappos", _ut),
    "release_dataset.zip": ("mit_states", _mit),
}
"""As :data:`TABLES`, of archives."""
