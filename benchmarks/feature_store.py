"""What the feature cache costs as data grow: time a row and memory at 1, 10 and 100 thousand rows.

Synthetic features of the micro model's shape are written in a stream, and then opened and read
in random batches, once through for the largest size and as many rows for the others. Every
measurement is a process of its own, so its peak memory is that of this size and nothing else;
sizes take turns, and the best round of each counts. Seconds are of this process's processor time:
the files lie in the page cache, and other processes of the machine should not count.

Time a row should stay and memory be flat. Two things are no fault of the store: a thousand rows
are 4 MiB, which a processor's own cache holds, so they are read a little faster; and they do not
fill the one shard that the writer holds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from compositional_prompts.captioner.features.feature_shards import write_features
from compositional_prompts.captioner.features.feature_store import FeatureStore

QUERIES, WIDTH = 16, 128  # the micro BLIP-2's
BATCH = 64
NAMES = 1_000  # that are looked up
ROWS = (1_000, 10_000, 100_000)


def image_id(row: int) -> str:
    """The name of a synthetic image."""
    return f"synthetic/{row:09d}.jpg"


def synthetic_batches(
    rows: int, queries: int, width: int, dtype: torch.dtype = torch.float16, seed: int = 0
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Random features and image_ids in batches, as ``blip2_features`` would give them."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, rows, BATCH):
        size = min(BATCH, rows - start)
        features = torch.randn(size, queries, width, generator=generator).to(dtype)
        yield [image_id(row) for row in range(start, start + size)], features


def write_synthetic(
    directory: Path, rows: int, queries: int = QUERIES, width: int = WIDTH, seed: int = 0
) -> FeatureStore:
    """Write a cache of random features at ``directory`` in a stream, and open it."""
    write_features(synthetic_batches(rows, queries, width, seed=seed), directory)
    return FeatureStore(directory)


def write(directory: Path, rows: int) -> dict[str, float]:
    """Processor seconds a row to write a cache, the drawing of random numbers left out."""
    drawn = [features for _, features in synthetic_batches(16 * BATCH, QUERIES, WIDTH)]

    def repeated() -> Iterator[tuple[list[str], torch.Tensor]]:
        for number, first in enumerate(range(0, rows, BATCH)):
            size = min(BATCH, rows - first)
            ids = [image_id(row) for row in range(first, first + size)]
            yield ids, drawn[number % len(drawn)][:size]

    write_features(synthetic_batches(1, QUERIES, WIDTH), directory)  # what is done once
    start = time.process_time()
    write_features(repeated(), directory)
    return {"write_us": (time.process_time() - start) / rows * 1e6}


def read(directory: Path, rows: int, rows_read: int) -> dict[str, float]:
    """Processor seconds to open a cache and find some images, and a row to read it."""
    start = time.process_time()
    store = FeatureStore(directory)
    opened = time.process_time()
    store.positions([image_id(row) for row in range(0, rows, rows // NAMES)])
    found = time.process_time()
    generator = np.random.default_rng(0)
    seconds, remaining = 0.0, rows_read
    while remaining > 0:
        order = generator.permutation(rows)[:remaining]
        begin = time.process_time()
        for first in range(0, len(order), BATCH):
            store.read(order[first : first + BATCH])
        seconds += time.process_time() - begin
        remaining -= len(order)
    return {
        "open_ms": (opened - start) * 1e3,
        "find_ms": (found - opened) * 1e3,
        "read_us": seconds / rows_read * 1e6,
    }


def memory() -> dict[str, float]:
    """Peak resident memory of this process, and what of it now is no file's, in MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mib": peak / 1024, "anon_mib": int(status["RssAnon"].split()[0]) / 1024}


def in_a_process(action: str, directory: Path, rows: int, rows_read: int) -> dict[str, float]:
    """What :func:`main` measures when started for one action."""
    command = [sys.executable, __file__, "--action", action, "--folder", str(directory)]
    command += ["--rows", str(rows), str(rows_read)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return {
        (f"{action}_{key}" if key.endswith("mib") else key): value
        for key, value in measured.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write, by default TMPDIR")
    parser.add_argument("--action", choices=["write", "read"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.action is not None:
        rows, rows_read = arguments.rows
        act = write if arguments.action == "write" else partial(read, rows_read=rows_read)
        print(json.dumps(act(arguments.folder, rows) | memory()))
        return
    best: dict[int, dict[str, float]] = {rows: {} for rows in arguments.rows}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for _ in range(arguments.rounds):
            for rows, figures in best.items():
                for action in ("write", "read"):
                    measured = in_a_process(
                        action, Path(folder) / str(rows), rows, max(arguments.rows)
                    )
                    for name, value in measured.items():
                        figures[name] = min(value, figures.get(name, value))
    for figures in best.values():
        figures["write+read_us"] = figures["write_us"] + figures["read_us"]
    print(f"{'rows':>16}" + "".join(f"{rows:>10,}" for rows in best) + "     ratio")
    for name in best[arguments.rows[0]]:
        values = [figures[name] for figures in best.values()]
        ratio = values[-1] / values[0]
        print(f"{name:>16}" + "".join(f"{value:10.2f}" for value in values) + f"{ratio:10.2f}")


if __name__ == "__main__":
    main()
