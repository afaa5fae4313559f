"""The engines over one computation: this machine's threads, and actors of Ray on two nodes of it.

The vectors of a project's CLIP are computed of its catalog's photos. Every engine must give the
same rows to the bit, or the benchmark fails. Start is what passes before the first rows; the
throughput is that of all others. The two nodes share this machine, so that they show what Ray
costs and not what two machines bring.

    python benchmarks/engines.py                       # the project here
    python benchmarks/engines.py --photos 500 --repeats 1
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # of each actor, and so of the local engine's model too

import numpy as np
from ray.cluster_utils import Cluster

from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.clip.catalog_vectors import ClipVectors
from compositional_prompts.compute.rows.computation import CPU_BATCH, Item
from compositional_prompts.compute.rows.local_engine import LocalEngine
from compositional_prompts.compute.rows.ray_engine import RayEngine
from compositional_prompts.pipeline.section import RayCluster

STORE_BYTES = 100 * 2**20


def read_photos(catalog: Path, most: int) -> list[Item]:
    """The first photos of a catalog, each once."""
    photos = CatalogPhotos(catalog)
    _, places = np.unique(photos.keys, return_index=True)
    return list(photos.items(np.sort(places)[:most]))


def run(name: str, project: Path, most: int, address: str) -> tuple[int, float, float, str]:
    """Photos, seconds to the first rows, rows a second after them, and the md5 of all rows."""
    items = read_photos(project / "data" / "catalog", most)
    computation = ClipVectors((project / "models" / "clip").resolve(), "cpu", CPU_BATCH)
    start = time.perf_counter()
    rows: dict[bytes, bytes] = {}
    first = 0.0
    before = 0
    with ENGINES[name](computation, address) as engine:
        for keys, values in engine.compute(items):
            if not rows:
                first = time.perf_counter()
                before = len(keys)
            rows |= dict(zip(keys.tolist(), map(bytes, values), strict=True))
        end = time.perf_counter()
    digest = hashlib.md5(b"".join(rows[item.key] for item in items)).hexdigest()
    return len(items), first - start, (len(items) - before) / (end - first), digest


def ray_engine(computation: ClipVectors, address: str | None) -> RayEngine:
    section = RayCluster(address=address, actors=2, cpus=1, gpus=0.0)
    return RayEngine(computation, section)


ENGINES: dict[str, Callable[[ClipVectors, str], AbstractContextManager[Any]]] = {
    "local, 1 worker": lambda computation, _: LocalEngine(computation, 1),
    "local, 2 workers": lambda computation, _: LocalEngine(computation, 2),
    "ray, its own, 2 actors": lambda computation, _: ray_engine(computation, None),
    "ray, two nodes, 2 actors": ray_engine,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path(), help="where its run lies")
    parser.add_argument("--photos", type=int, default=2400, help="how many at most")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the median is shown")
    arguments = parser.parse_args()
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(True, head_node_args=node | {"include_dashboard": False})
    digests = set()
    try:
        cluster.add_node(**node)
        print(f"{os.cpu_count()} cores, medians of {arguments.repeats}")
        print(f"{'engine':26}{'photos':>7}{'start s':>9}{'photos/s':>10}  md5 of the rows")
        for name in ENGINES:
            runs = []
            for _ in range(arguments.repeats):
                # A process joins one cluster only.
                with ProcessPoolExecutor(1, get_context("spawn")) as process:
                    given = (name, arguments.project, arguments.photos, cluster.address)
                    runs.append(process.submit(run, *given).result())
            photos, _, _, digest = runs[0]
            start, rate = (statistics.median(one[place] for one in runs) for place in (1, 2))
            digests |= {one[3] for one in runs}
            print(f"{name:26}{photos:7}{start:9.1f}{rate:10.0f}  {digest}", flush=True)
    finally:
        cluster.shutdown()
    if len(digests) != 1:
        raise SystemExit("The engines give different rows.")


if __name__ == "__main__":
    main()
