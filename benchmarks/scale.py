"""What a row costs a stage, in time and memory, as rows become many.

Runs the stages' own scripts, each number of rows in a process of its own, on photos of a few pixels
and made-up labels, so that what is measured is what grows with the rows and not what a photo
costs. A stage should take the same time a row from 10,000 rows on, and memory that hardly grows.

The first line of a stage has its fixed cost in it; ``more`` is what the rows beyond those of the
line above took, in microseconds and bytes a row. Memory is the most that one process had.
"""

from __future__ import annotations

import argparse
import csv
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.split_tables import LISTED_PAIRS
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import write_table

ROOT: Final = Path(__file__).parents[1]
ATTRIBUTES: Final = 20
OBJECTS: Final = 30
PHOTOS_A_FOLDER: Final = 1000
MATERIALS: Final = ("leather", "suede", "canvas")


class Stage(NamedTuple):
    """How a stage is run on so many rows.

    Attributes:
        prepare: writes what it reads into a folder.
        paths: of its script, by name; relative to that folder.
    """

    prepare: Callable[[Path, int], None]
    paths: dict[str, str]


class Cost(NamedTuple):
    """What a run took; memory in bytes, of its largest process."""

    rows: int
    seconds: float
    memory: int


def photo(number: int) -> bytes:
    """A bitmap of one pixel and four bytes that none else has; read as 24 bits a pixel."""
    size = 54 + 4
    header = struct.pack("<2sIHHI", b"BM", size, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 24, 0, 4, number, 0, 0, 0)
    return header + number.to_bytes(4, "little")


def catalog_rows(rows: int) -> Iterator[CatalogRow]:
    """Three photos a product, all with labels, a title and truth."""
    for number in range(rows):
        path = f"{number // PHOTOS_A_FOLDER:05d}/{number:07d}.bmp"
        yield CatalogRow(
            image_id=path,
            product_id=f"product-{number // 3:07d}",
            image=photo(number),
            path=path,
            attribute=f"Attribute.{number * 7 % ATTRIBUTES}",
            object=f"Object.{number * 11 % OBJECTS}",
            title=f"A shoe of the number {number} in its colour",
            truth={"color": "black", "material": MATERIALS[number % len(MATERIALS)]},
        )


def write_folder(folder: Path, rows: int) -> None:
    """Photos and their labels, as people bring them."""
    with (folder / "photos.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ("image_path", "product_id", "attribute", "object", "title", "color", "material")
        )
        for row in catalog_rows(rows):
            path = folder / "photos" / row.path
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True)
            path.write_bytes(row.image or b"")
            labels = (row.path, row.product_id, row.attribute, row.object, row.title)
            table.writerow((*labels, *row.truth.values()))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["download"]["dataset"] = "folder"
    params["download"]["folder"] |= {"path": "photos", "labels": "photos.csv"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def write_catalog(folder: Path, rows: int) -> None:
    """What ``download`` makes of such a folder, without looking at the photos."""
    with open_shards(folder / "catalog", shard_mib=16) as shards:
        for row in catalog_rows(rows):
            shards.write(row)
    write_table(LISTED_PAIRS.empty_table(), folder / "listed_pairs.parquet", LISTED_PAIRS)
    write_metrics({"grows": True}, folder / "download.json")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())


STAGES: Final = {
    "download": Stage(
        write_folder,
        {
            "catalog": "catalog",
            "truth": "truth.parquet",
            "rejected": "rejected.parquet",
            "listed-pairs": "listed_pairs.parquet",
            "metrics": "download.json",
        },
    ),
    "split": Stage(
        write_catalog,
        {
            "catalog": "catalog",
            "listed-pairs": "listed_pairs.parquet",
            "download": "download.json",
            "splits": "splits.parquet",
            "pairs": "pairs.parquet",
            "corpus": "corpus.parquet",
            "metrics": "split.json",
        },
    ),
}


def measure(name: str, rows: int, scratch: Path | None) -> Cost:
    """Run a stage once, in a folder that is gone afterwards.

    Raises:
        RuntimeError: it failed; its log stands above.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="scale-") as created:
        folder = Path(created)
        STAGES[name].prepare(folder, rows)
        command = [sys.executable, str(ROOT / "stages" / f"{name}.py")]
        for option, path in STAGES[name].paths.items():
            command += [f"--{option}", path]
        log = folder / "log.txt"
        start = time.perf_counter()
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)
            _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            print(log.read_text(errors="replace"), file=sys.stderr)
            raise RuntimeError(f"{name} of {rows} rows ended with {process.returncode}.")
    unit = 1 if sys.platform == "darwin" else 2**10
    return Cost(rows, seconds, used.ru_maxrss * unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--scratch", type=Path, help="folder for inputs and outputs: 4 KiB a row")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.stages if name not in STAGES]
    if unknown:
        parser.error(f"there is no stage {unknown[0]!r} here; there are {', '.join(STAGES)}.")
    print(f"{'':12}{'rows':>10}{'s':>9}{'us/row':>9}{'more':>9}{'MiB':>8}{'more B/row':>12}")
    for name in arguments.stages or STAGES:
        before = Cost(0, 0.0, 0)
        for rows in sorted(arguments.rows):
            cost = measure(name, rows, arguments.scratch)
            more = rows - before.rows
            seconds, memory = cost.seconds - before.seconds, cost.memory - before.memory
            beyond = f"{seconds / more * 1e6:9.1f}" if before.rows else f"{'':9}"
            bytes_beyond = f"{memory / more:12.0f}" if before.rows else ""
            print(
                f"{name:12}{rows:>10}{cost.seconds:>9.1f}{cost.seconds / rows * 1e6:>9.1f}{beyond}"
                f"{cost.memory / 2**20:>8.0f}{bytes_beyond}",
                flush=True,
            )
            before = cost


if __name__ == "__main__":
    main()
