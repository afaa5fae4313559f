"""Reading photographs and labels of Parquet files: as the pipeline does, and as ``datasets`` does.

Each way streams all rows, photos undecoded, in a process of its own, whose time (imports counted)
and largest memory are printed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from compositional_prompts.files.tables import open_parquet

WAYS = ("pipeline", "datasets")


def rows_of(way: str, files: list[Path], columns: list[str]) -> int:
    """Read every row in ``way``; how many there are."""
    if way == "pipeline":
        count = 0
        for file in files:
            with open_parquet(file, 2**20) as parquet:
                for batch in parquet.iter_batches(64, columns=columns, use_threads=False):
                    count += len(batch.to_pylist())
        return count
    from datasets import Image, load_dataset

    data = load_dataset(
        "parquet",
        data_files={"train": [str(file) for file in files]},
        split="train",
        streaming=True,
        columns=columns,
        batch_size=64,
    )
    return sum(1 for _ in data.cast_column(columns[0], Image(decode=False)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="searched for *.parquet")
    parser.add_argument("columns", nargs="+", help="to read, that of the photos first")
    parser.add_argument("--way", choices=WAYS, help="measured in this process")
    arguments = parser.parse_args()
    if arguments.way is None:
        for way in WAYS:
            subprocess.run([sys.executable, *sys.argv, "--way", way], check=True)
        return
    start = time.perf_counter()
    count = rows_of(arguments.way, sorted(arguments.folder.rglob("*.parquet")), arguments.columns)
    seconds = time.perf_counter() - start
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{arguments.way}: {count} rows, {seconds:.1f} s, {mib:.0f} MiB")


if __name__ == "__main__":
    main()
