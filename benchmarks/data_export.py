"""What ``compositional-prompts export-data`` takes, in time and memory, as rows become many.

The photos and tables of the finished run in the working folder are repeated under other names, and
each form is written of them in a process of its own. Memory should hardly grow: ``MiB`` is the most
that the process had (ru_maxrss), with files that it mapped.

    python benchmarks/data_export.py                            # 10,000 and 50,000 rows
    python benchmarks/data_export.py --rows 1000000 --forms csv # minutes to make, and 5 GB of disk
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl
import pyarrow.parquet as pq

from compositional_prompts.catalog.reading import LABEL_COLUMNS, iterate_batches
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.files.tables import write_tables

FORMS: Final = ("hub", "jsonl", "csv", "coco", "webdataset")
TABLES: Final = (
    "data/splits.parquet",
    "data/truth.parquet",
    "data/prompts/original.parquet",
    "data/prompts/enhanced.parquet",
    "data/recommended.parquet",
)
GIVEN: Final = ("dvc.yaml", "params.yaml", "data/pairs.parquet", "models/word_scorer")
SHARD_MIB: Final = 128


class Cost(NamedTuple):
    """What an export took, and what it wrote: seconds, of processor, MiB in memory and on disk."""

    seconds: float
    processor: float
    memory: float
    written: float


def repeat_project(run: Path, root: Path, rows: int) -> None:
    """A project of ``rows`` photos, in the order of the catalog."""
    for name in GIVEN:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (run / name).is_dir() else shutil.copy
        copy(run / name, root / name)
    catalog = list(iterate_batches(run / "data" / "catalog", [*LABEL_COLUMNS, "image"]))
    photos = [row for batch in catalog for row in batch.to_pylist()]
    order = [photo["image_id"] for photo in photos]
    times = -(-rows // len(photos))
    with open_shards(root / "data" / "catalog", SHARD_MIB) as shards:
        for number in range(rows):
            turn, place = divmod(number, len(photos))
            photo = dict(photos[place])
            image = photo.pop("image")
            name = f"{turn}/{photo.pop('image_id')}"
            # Bytes behind the end of an image are passed over, and make it another.
            encoded = image["bytes"] + turn.to_bytes(4, "little")
            shards.write(CatalogRow(image_id=name, image=encoded, path=image["path"], **photo))
    for name in TABLES:
        table = pl.read_parquet(run / name)
        place = {image_id: number for number, image_id in enumerate(order)}
        table = table.sort(
            pl.col("image_id").replace_strict(place, return_dtype=pl.Int64), maintain_order=True
        )
        last = order[: rows - (times - 1) * len(order)]
        schema = pq.read_schema(run / name)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_tables(
            (
                part.with_columns(pl.concat_str(pl.lit(f"{turn}/"), "image_id").alias("image_id"))
                .to_arrow()
                .cast(schema)
                for turn in range(times)
                for part in [
                    table if turn < times - 1 else table.filter(pl.col("image_id").is_in(last))
                ]
            ),
            root / name,
            schema,
        )


def measure(root: Path, form: str, options: list[str]) -> Cost:
    """One export, which is removed again."""
    command = [sys.executable, "-m", "compositional_prompts", "export-data", "out"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--form", form, *options], cwd=root, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        sys.exit(f"{form}: exit status {os.waitstatus_to_exitcode(status)}")
    files = (path for path in (root / "out").rglob("*") if path.is_file())
    written = sum(path.stat().st_size for path in files) / 2**20
    shutil.rmtree(root / "out")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10, written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=Path(), help="a finished run")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--options", nargs="*", default=[], help="of the command, without --")
    arguments = parser.parse_args()
    print("form            rows         s    processor s      MiB  MiB written")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(prefix="data-export-") as name:
            repeat_project(arguments.project.resolve(), Path(name), rows)
            for form in arguments.forms:
                cost = measure(Path(name), form, [f"--{one}" for one in arguments.options])
                print(
                    f"{form:<12} {rows:>7,} {cost.seconds:>9.1f} {cost.processor:>14.1f} "
                    f"{cost.memory:>8.0f} {cost.written:>12.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
