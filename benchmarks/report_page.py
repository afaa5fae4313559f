"""The page of the report at any number of photos: its size, and how fast it answers in Chromium.

Photos and tables of the finished run in the working folder are repeated under new names until there
are enough. Measured are the first paint and the end of loading (Performance API), and the time from
a filter's event to the frame that shows its result, layout and drawing included.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from compositional_prompts.project.whole_params import read_all_params
from compositional_prompts.reporting.content.limits import limits
from compositional_prompts.reporting.page import PageSettings, ReportPaths, build_report

ROOT = Path(__file__).parents[1]
TABLES = (
    *("splits", "prompts/original", "prompts/enhanced", "recommended", "scores", "truth"),
    *("captions/base", "captions/finetuned"),
)
REPEATS = 9

PAINT = """
const paints = performance.getEntriesByType('paint').map(p => [p.name, p.startTime]);
const load = performance.getEntriesByType('navigation')[0].loadEventEnd;
return Object.fromEntries([...paints, ['loaded', load]]);
"""
FILTER = """
const [name, value, done] = arguments;
const form = document.getElementById('find'), control = form.elements[name];
const isSelect = control.tagName === 'SELECT';
const last = isSelect ? control.options[control.options.length - 1].value : null;
control.value = value ?? last;
const start = performance.now();
control.dispatchEvent(new Event(isSelect ? 'change' : 'input', {bubbles: true}));
const computed = performance.now();
requestAnimationFrame(() => setTimeout(() => {
  const end = performance.now();
  const found = document.getElementById('found-count').textContent;
  control.value = '';
  done([computed - start, end - start, found]);
}));
"""
FILTERS = {"q": "leather", "object": None, "word": None, "verdict": "w", "sort": "worst"}


def repeated(table: pa.Table, copies: int, keep: set[str]) -> pa.Table:
    """The rows under new image_ids, of those that are to be kept."""
    place = table.schema.get_field_index("image_id")
    parts = []
    for copy in range(copies):
        field = table.schema.field(place)
        ids = pa.array([f"{one}-{copy}" for one in table.column(place).to_pylist()], field.type)
        part = table.set_column(place, field, ids)
        parts.append(part.filter(pa.array([one in keep for one in ids.to_pylist()])))
    return pa.concat_tables(parts)


def enlarge(source: Path, root: Path, photos: int) -> ReportPaths:
    """A project of so many photos in ``root``, of those of ``source``."""
    ids = pl.read_parquet(source / "data/splits.parquet")["image_id"].to_list()
    copies = -(-photos // len(ids))
    keep = set([f"{one}-{copy}" for copy in range(copies) for one in ids][:photos])
    for name in TABLES:
        path = Path("data", name).with_suffix(".parquet")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(repeated(pq.read_table(source / path), copies, keep), root / path)
    (root / "data/catalog").mkdir()
    for shard in sorted((source / "data/catalog").glob("*.parquet")):
        table = repeated(pq.read_table(shard), copies, keep)
        pq.write_table(table, root / "data/catalog" / shard.name, row_group_size=512)
    shutil.copy(source / "data/rejected.parquet", root / "data")
    shutil.copytree(source / "metrics", root / "metrics")
    data = root / "data"
    return ReportPaths(
        dvc_yaml=ROOT / "dvc.yaml",
        params=ROOT / "params.yaml",
        catalog=data / "catalog",
        truth=data / "truth.parquet",
        rejected=data / "rejected.parquet",
        splits=data / "splits.parquet",
        original=data / "prompts/original.parquet",
        prompts=data / "prompts/enhanced.parquet",
        captions=data / "captions",
        recommended=data / "recommended.parquet",
        scores=data / "scores.parquet",
        metrics=root / "metrics",
        page=root / "index.html",
        figures=root / "figures",
    )


def build(paths: ReportPaths, photos: int) -> float:
    """Build the page; the seconds that it takes."""
    params = read_all_params(paths.params)
    settings = PageSettings(
        title="Benchmark",
        gallery_images=params.report.gallery_images,
        photos=photos,
        vocabulary=params.clip_embed.vocabulary,
        threshold=params.enhance.threshold,
        seed=params.base.seed,
        workers=params.base.workers,
    )
    start = time.perf_counter()
    build_report(paths, limits(params.download, params.weights, params.blip2_features), settings)
    return time.perf_counter() - start


def measure(page: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import open_browser

    with open_browser() as chrome:
        paints: list[dict[str, float]] = []
        for _ in range(REPEATS):
            chrome.get("about:blank")
            chrome.get(page.as_uri())
            time.sleep(0.3)  # the entry of the end of loading comes after it
            paints.append(chrome.execute_script(PAINT))
        for name in paints[0]:
            values = [paint[name] for paint in paints]
            print(f"{name:24} {median(values):7.0f} ms  ({min(values):.0f} to {max(values):.0f})")
        for name, value in FILTERS.items():
            runs: list[Any] = [
                chrome.execute_async_script(FILTER, name, value) for _ in range(REPEATS)
            ]
            computed, shown = (median(run[at] for run in runs) for at in (0, 1))
            worst = max(run[1] for run in runs)
            print(
                f"filter {name:17} {computed:7.1f} ms computed, {shown:.1f} ms until shown "
                f"(at most {worst:.1f}); {runs[0][2]}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=3000)
    parser.add_argument("--project", type=Path, default=ROOT, help="a finished run")
    parser.add_argument("--keep", type=Path, help="copy the page to here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = enlarge(arguments.project, Path(folder), arguments.photos)
        seconds = build(paths, arguments.photos)
        size = paths.page.stat().st_size
        print(f"{arguments.photos} photos: {size / 2**20:.1f} MiB, built in {seconds:.1f} s")
        measure(paths.page)
        if arguments.keep:
            shutil.copy(paths.page, arguments.keep)


if __name__ == "__main__":
    main()
