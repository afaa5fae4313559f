"""What the row store costs, and what it keeps: rows a second, memory, and kills while it writes.

Rows of 512 float32 are written as a stage does, in batches, confirmed as the store confirms by
itself; then opened anew, checked (every byte against its checksum, which happens once in a
process), read in the order in which they were written, and in a random one. Every measurement is
a process of its own; the best round counts. Files lie in the page cache.

Then a process that writes is killed (kill -9) again and again, after a random time; each time every
row that it had been told is confirmed must be there, to the byte.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.compute.rows.computation import KEY
from compositional_prompts.compute.rows.row_store import RowStore, StoredRows

ROW = np.dtype([("vector", "<f4", (512,))])
BATCH = 256
AT_ONCE = 4096


def keys_of(first: int, count: int) -> NDArray[np.void]:
    """Keys that look random, the same every time: a permutation of 64 bits, twice."""
    numbers = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (numbers ^ (numbers >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.stack([mixed ^ (mixed >> np.uint64(27)), numbers], 1).view(KEY).ravel()


def rows_of(first: int, count: int) -> NDArray[Any]:
    """Rows that tell which they are."""
    rows = np.empty(count, ROW)
    rows["vector"] = np.arange(first, first + count, dtype=np.float32)[:, None]
    return rows


def opened(folder: Path) -> StoredRows:
    """The store that is measured."""
    return RowStore(folder, 1024).open("vectors", "0", {})


def write(folder: Path, rows: int) -> dict[str, float]:
    """Rows a second to keep; the last is confirmed when it ends."""
    batches = [(first, rows_of(first, BATCH)) for first in range(0, 16 * BATCH, BATCH)]
    start = time.perf_counter()
    with opened(folder) as stored:
        for number, first in enumerate(range(0, rows, BATCH)):
            count = min(BATCH, rows - first)
            _, values = batches[number % len(batches)]
            stored.append(keys_of(first, count), values[:count])
    return {"write": rows / (time.perf_counter() - start)}


def read(folder: Path, rows: int) -> dict[str, float]:
    """Rows a second to find and check, to read in order, and to read at random; opening in ms."""
    keys = keys_of(0, rows)
    order = np.random.default_rng(0).permutation(rows)
    anonymous = memory("RssAnon")
    start = time.perf_counter()
    with opened(folder) as stored:
        open_end = time.perf_counter()
        index = memory("RssAnon") - anonymous
        missing = stored.missing(keys)
        checked = time.perf_counter()
        assert not len(missing)
        for first in range(0, rows, AT_ONCE):
            stored.read(keys[first : first + AT_ONCE])
        ordered = time.perf_counter()
        for first in range(0, rows, AT_ONCE):
            stored.read(keys[order[first : first + AT_ONCE]])
        at_random = time.perf_counter()
        few = min(rows, 64_000)
        for first in range(0, few, 64):
            stored.read(keys[order[first : first + 64]])
        end = time.perf_counter()
    return {
        "open, ms": (open_end - start) * 1e3,
        "index, bytes a row": index / rows,
        "find and check": rows / (checked - open_end),
        "read in order": rows / (ordered - checked),
        "check and read in order": rows / (ordered - open_end),
        "read at random, 4096": rows / (at_random - ordered),
        "read at random, 64": few / (end - at_random),
    }


def memory(name: str) -> int:
    """Bytes that ``/proc`` says of this process."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(dict(line for line in lines if len(line) == 2)[name].split()[0]) * 1024


def append_for_ever(folder: Path) -> None:
    """Write on where the store ends, and print how many rows are confirmed."""
    with opened(folder) as stored:
        first = len(stored)
        while True:
            for _ in range(random.randint(1, 8)):
                count = random.randint(1, 400)
                stored.append(keys_of(first, count), rows_of(first, count))
                first += count
            stored.flush()
            print(first, flush=True)


def survive(folder: Path, kills: int) -> dict[str, float]:
    """Kill a writer again and again; how often, and what was there after it."""
    confirmed = lost = unfinished = 0
    for number in range(kills):
        command = [sys.executable, __file__, "--action", "append", "--folder", str(folder)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        told = int(writer.stdout.readline())
        delay = random.Random(number).random() * 0.3
        time.sleep(delay)
        writer.kill()
        told = max([told, *map(int, writer.stdout.read().split("\n")[:-1])])
        writer.wait()
        before = sum(path.stat().st_size for path in folder.rglob("*.rows"))
        with opened(folder) as stored:
            after = sum(path.stat().st_size for path in folder.rglob("*.rows"))
            unfinished += after < before
            lost += len(stored.missing(keys_of(0, told)))
            for first in range(0, told, AT_ONCE):
                count = min(AT_ONCE, told - first)
                rows = stored.read(keys_of(first, count))
                if rows.tobytes() != rows_of(first, count).tobytes():
                    raise SystemExit(f"rows {first} to {first + count} are not what was written")
        confirmed = told
    return {
        "kills": kills,
        "of them in the middle of a block": unfinished,
        "rows confirmed": confirmed,
        "of them lost": lost,
    }


def in_a_process(action: str, folder: Path, rows: int) -> dict[str, float]:
    """What :func:`main` measures when started for one action."""
    command = [sys.executable, __file__, "--action", action, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--rows", str(rows)], stdout=subprocess.PIPE, check=True, env=one_core()
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def one_core() -> dict[str, str]:
    """An environment in which libraries start no threads."""
    return dict(os.environ) | {"OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where to write, by default TMPDIR")
    parser.add_argument("--action", choices=["write", "read", "append"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.action == "append":
        append_for_ever(arguments.folder)
    elif arguments.action is not None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        act = write if arguments.action == "write" else read
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(act(arguments.folder, arguments.rows) | {"start, MiB": peak / 1024}))
    else:
        best: dict[str, float] = {}
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                store = Path(folder) / "rows"
                measured = in_a_process("write", store, arguments.rows)
                stored = sum(path.stat().st_size for path in store.rglob("*"))
                measured |= in_a_process("read", store, arguments.rows)
                measured["stored, bytes a byte of rows"] = stored / arguments.rows / ROW.itemsize
                for name, value in measured.items():
                    smaller = "," in name and not name.startswith("read")
                    better = min if smaller else max
                    best[name] = better(value, best.get(name, value))
        print(f"{arguments.rows:,} rows of 512 float32, one core; rows/s unless said otherwise")
        for name, value in best.items():
            print(f"{name:>34} {value:14,.2f}" if value < 1e3 else f"{name:>34} {value:11,.0f}")
        if arguments.kills:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                for name, value in survive(Path(folder) / "rows", arguments.kills).items():
                    print(f"{name:>34} {value:11,.0f}")


if __name__ == "__main__":
    main()
