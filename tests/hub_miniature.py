"""Data sets of the hub in little: their layout, columns and features, with drawn photos."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINE = ("apple", "aquarium_fish", "beaver", "dolphin")
COARSE = ("aquatic_mammals", "fish", "fruit_and_vegetables")

PHOTO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def photo(seed: int, size: int = 32) -> bytes:
    """A PNG of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    file: Path,
    columns: Mapping[str, Any],
    features: Mapping[str, Any] | None = None,
    group: int = 4,
) -> Path:
    """Columns as a file; ``features`` as ``datasets`` declares them in its metadata."""
    table = pa.table(dict(columns))
    if features is not None:
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


def photos(count: int, first: int = 0) -> pa.Array:
    """``count`` photos as the hub stores them."""
    return pa.array([{"bytes": photo(first + n), "path": None} for n in range(count)], PHOTO)


def classes(names: Sequence[str]) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


def cifar10(root: Path, train: int = 20, test: int = 10) -> Path:
    """As ``uoft-cs/cifar10``: a subset in a folder of its own, splits and classes in the card."""
    for split, count, first in (("train", train, 0), ("test", test, train)):
        numbers = pa.array([n % 10 for n in range(count)], pa.int64())
        name = f"{split}-00000-of-00001.parquet"
        write_parquet(root / "plain_text" / name, {"img": photos(count, first), "label": numbers})
    names = "\n".join(f"          '{n}': {name}" for n, name in enumerate(CIFAR10))
    (root / "README.md").write_text(
        "---\ndataset_info:\n  config_name: plain_text\n  features:\n"
        "  - name: img\n    dtype: image\n"
        f"  - name: label\n    dtype:\n      class_label:\n        names:\n{names}\n"
        "configs:\n- config_name: plain_text\n  data_files:\n"
        "  - split: train\n    path: plain_text/train-*\n"
        "  - split: test\n    path: plain_text/test-*\n  default: true\n---\n# CIFAR-10\n"
    )
    return root


def cifar100(root: Path, train: int = 16, test: int = 8) -> Path:
    """As ``uoft-cs/cifar100``: two labels, whose classes are in the files."""
    features = {
        "img": {"_type": "Image"},
        "fine_label": classes(FINE),
        "coarse_label": classes(COARSE),
    }
    for split, count, first in (("train", train, 0), ("test", test, train)):
        fine = [n % 4 for n in range(count)]
        columns = {
            "img": photos(count, first),
            "fine_label": pa.array(fine, pa.int64()),
            "coarse_label": pa.array([(2, 1, 0, 0)[number] for number in fine], pa.int64()),
        }
        name = f"{split}-00000-of-00001.parquet"
        write_parquet(root / "cifar100" / name, columns, features)
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: cifar100\n  data_files:\n"
        "  - split: train\n    path: cifar100/train-*\n"
        "  - split: test\n    path: cifar100/test-*\n---\n"
    )
    return root


def clothing(root: Path, count: int = 24) -> Path:
    """As the photographs of clothes that people took at home: one label, and who sent them."""
    labels = ("T-Shirt", "Shoes", "Not sure", "Longsleeve", "Skip", "Shoes", "Other", "Hat")
    columns = {
        "image": photos(count),
        "label": [labels[n % len(labels)] for n in range(count)],
        "kids": [n % 3 == 0 for n in range(count)],
        "sender_id": pa.array([n // 4 for n in range(count)], pa.int64()),
    }
    write_parquet(root / "photos-00000-of-00001.parquet", columns)
    (root / "README.md").write_text("# Photographs of clothes\nNo more is declared.\n")
    return root
