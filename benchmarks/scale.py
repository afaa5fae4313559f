"""What a row costs a stage, in time and memory, as rows become many.

Runs the stages' own scripts, each in a process of its own, on photos of a few pixels and made-up
labels, so that what is measured is what grows with the rows and not what a photo costs. In the
place of models, and of the pixel baseline, are computations that cost nothing
(``measuring/costless_models.py``), but of CLIP's texts, which are as many for any number of rows.
A stage should take the same time a row from 10,000 rows on, and memory that hardly grows.

The first line of a stage has its fixed cost in it; ``more`` is what the rows beyond those of the
stage's line before took, in microseconds of processor and bytes a row. ``MiB`` is the most that
the stage's process had in memory (VmHWM), with files that it mapped, which the system takes back
where memory is short; ``own`` is without these (RssAnon), and of it are the last bytes a row.
Workers are processes of their own, of one size for any number of rows; their seconds of processor
count. On Linux.

``troika_predict`` names all photos and measures 50, ``infer`` captions all by the grammar and a
tenth freely too, ``score`` scores a tenth. They need the models that ``make repro`` makes.
"""

from __future__ import annotations

import argparse
import csv
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from compositional_prompts.captioner.features.feature_shards import write_uncached
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.splitting.split_tables import LISTED_PAIRS
from compositional_prompts.catalog.truth import open_truth
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import write_table
from compositional_prompts.troika.model.model_folder import CONFIG_FILE, FORMAT

ROOT: Final = Path(__file__).parents[1]
COSTLESS: Final = ROOT / "benchmarks" / "measuring" / "costless_models.py"
ATTRIBUTES: Final = 20
OBJECTS: Final = 30
PHOTOS_A_FOLDER: Final = 1000
MEASURED: Final = 50
"""Photos that Troika is measured on; one takes some 4 KB."""
BETWEEN_LOOKS: Final = 0.02
"""Seconds between two looks at the memory of a stage."""
MATERIALS: Final = ("leather", "suede", "canvas")


class Stage(NamedTuple):
    """How a stage is run.

    Attributes:
        script: of ``stages/``.
        needs: what writes its inputs, or the stages that do; made once for a number of rows.
        options: of its script: paths relative to the folder of that number of rows.
        costless: whether its computation is replaced by one that costs nothing.
    """

    script: str
    needs: tuple[Callable[[Path, int], None] | str, ...]
    options: str
    costless: bool = False


class Cost(NamedTuple):
    """What a run took: ``processor`` seconds with workers; ``memory`` in bytes, ``own`` without
    files that it mapped."""

    rows: int
    seconds: float
    processor: float
    memory: int
    own: int


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


def write_catalog(folder: Path, rows: int) -> None:
    """What ``download`` makes of such a folder, without looking at the photos."""
    with (
        open_shards(folder / "catalog", shard_mib=16) as shards,
        open_truth(folder / "truth.parquet") as truth,
    ):
        for row in catalog_rows(rows):
            shards.write(row)
            truth.write(row)
    write_table(LISTED_PAIRS.empty_table(), folder / "listed_pairs.parquet", LISTED_PAIRS)
    write_metrics({"grows": True}, folder / "download.json")


def write_few_measured(folder: Path, rows: int) -> None:
    """Splits of which few photos are measured, and a Troika that was not trained."""
    table = pq.read_table(folder / "splits.parquet")
    measured = pc.index_in(table["pair_split"], pa.array(["test"])).is_valid().to_numpy()
    few = pa.array(measured & (np.cumsum(measured) <= MEASURED))
    split = pc.if_else(few, table["pair_split"], pa.scalar(None, pa.string()))
    column = table.schema.get_field_index("pair_split")
    table = table.set_column(column, table.schema.field(column), split)
    pq.write_table(table, folder / "few_measured.parquet")
    (folder / "troika").mkdir()
    write_metrics({"format": FORMAT, "trained": False}, folder / "troika" / CONFIG_FILE)


def write_no_features(folder: Path, rows: int) -> None:
    write_uncached(folder / "features")


STAGES: Final = {
    "download": Stage(
        "download",
        (write_folder,),
        "--catalog downloaded --truth downloaded.parquet --rejected rejected.parquet "
        "--listed-pairs downloaded_pairs.parquet --metrics downloaded.json",
    ),
    "split": Stage(
        "split",
        (write_catalog,),
        "--catalog catalog --listed-pairs listed_pairs.parquet --download download.json "
        "--splits splits.parquet --pairs pairs.parquet --corpus corpus.parquet "
        "--metrics split.json",
    ),
    "clip_embed": Stage(
        "clip_embed",
        (write_catalog,),
        "--catalog catalog --clip models/clip --images embeddings/images "
        "--words embeddings/words.parquet",
        costless=True,
    ),
    "troika_predict": Stage(
        "troika_predict",
        ("split", write_few_measured),
        "--catalog catalog --splits few_measured.parquet --pairs pairs.parquet "
        "--clip models/clip --model troika --prompts original.parquet --metrics troika.json",
        costless=True,
    ),
    "colors": Stage(
        "colors",
        (write_catalog,),
        "--catalog catalog --truth truth.parquet --colors colors",
        costless=True,
    ),
    "word_scorer": Stage(
        "word_scorer",
        ("split", "clip_embed", "colors"),
        "--splits splits.parquet --truth truth.parquet --vectors embeddings/images "
        "--catalog catalog --colors colors --words embeddings/words.parquet --clip models/clip "
        "--scorer word_scorer --metrics word_scorer.json",
    ),
    "enhance": Stage(
        "enhance",
        ("word_scorer", "troika_predict"),
        "--prompts original.parquet --splits splits.parquet --truth truth.parquet "
        "--vectors embeddings/images --colors colors --scorer word_scorer "
        "--enhanced enhanced.parquet --metrics enhance.json --confusion confusion "
        "--reliability reliability --risk-coverage risk_coverage",
    ),
    "infer_base": Stage(
        "infer",
        ("split", write_no_features),
        "--features features --catalog catalog --splits splits.parquet "
        "--blip2 models/blip2 --captions captions/base.parquet --metrics base.json",
        costless=True,
    ),
    "infer": Stage(
        "infer",
        ("split", write_no_features),
        "--features features --catalog catalog --splits splits.parquet --blip2 models/blip2 "
        "--adapter models/blip2_lora --captions captions/finetuned.parquet "
        "--metrics finetuned.json",
        costless=True,
    ),
    "score": Stage(
        "score",
        ("enhance", "infer_base", "infer"),
        "--captions captions --prompts enhanced.parquet --catalog catalog "
        "--truth truth.parquet --embeddings embeddings --clip models/clip "
        "--scores scores.parquet --metrics scores.json --plots scores.csv",
    ),
}


def write_params(folder: Path, models: Path) -> None:
    """The parameters of the sample, but for the data set and for one world of pairs."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["download"]["dataset"] = "folder"
    params["download"]["folder"] |= {"path": "photos", "labels": "photos.csv"}
    params["troika_predict"]["worlds"] = ["closed"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "models").symlink_to(models.resolve())


def in_order(names: Sequence[str]) -> list[str]:
    """Stages and those whose outputs they need, these first."""
    found: dict[str, None] = {}
    for name in names:
        needed = [one for one in STAGES[name].needs if isinstance(one, str)]
        found |= dict.fromkeys([*in_order(needed), name])
    return list(found)


def prepare(name: str, folder: Path, rows: int, made: set[str]) -> None:
    """Write the inputs of a stage that are not there yet."""
    for need in STAGES[name].needs:
        if not isinstance(need, str) and need.__name__ not in made:
            made.add(need.__name__)
            need(folder, rows)


def measure(name: str, folder: Path, rows: int) -> Cost:
    """Run a stage once, in a folder that has its inputs.

    Raises:
        RuntimeError: it failed; its log stands above.
    """
    stage = STAGES[name]
    script = str(ROOT / "stages" / f"{stage.script}.py")
    command = [sys.executable, *([str(COSTLESS)] if stage.costless else []), script]
    log = folder / f"{name}.txt"
    most: dict[str, int] = {}
    start, processor = time.perf_counter(), processor_seconds()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *stage.options.split()], cwd=folder, stdout=file, stderr=file
        )
        while process.poll() is None:
            for kind, size in memory_of(process.pid).items():
                most[kind] = max(most.get(kind, 0), size)
            time.sleep(BETWEEN_LOOKS)
    seconds = time.perf_counter() - start
    if process.returncode:
        print(log.read_text(errors="replace"), file=sys.stderr)
        raise RuntimeError(f"{name} of {rows} rows ended with {process.returncode}.")
    processor = processor_seconds() - processor
    return Cost(rows, seconds, processor, most["VmHWM"], most["RssAnon"])


def processor_seconds() -> float:
    """Of all processes that ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_of(process: int) -> dict[str, int]:
    """Bytes that a process has in memory, by kind; nothing of one that has just ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    kinds = [kind for kind in ("VmHWM", "RssAnon") if kind in fields]
    return {kind: int(fields[kind].split()[0]) * 2**10 for kind in kinds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--scratch", type=Path, help="folder for inputs and outputs: 8 KiB a row")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="of a trained project")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.stages if name not in STAGES]
    if unknown:
        parser.error(f"there is no stage {unknown[0]!r} here; there are {', '.join(STAGES)}.")
    print(
        f"{'':15}{'rows':>9}{'s':>8}{'processor s':>13}{'more us':>9}{'MiB':>6}{'own':>6}"
        f"{'more B/row':>11}"
    )
    last: dict[str, Cost] = {}
    for rows in sorted(arguments.rows):
        with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="scale-") as created:
            folder, made = Path(created), set[str]()
            write_params(folder, arguments.models)
            for name in in_order(arguments.stages or list(STAGES)):
                prepare(name, folder, rows, made)
                cost = measure(name, folder, rows)
                print(line(name, cost, last.get(name)), flush=True)
                last[name] = cost


def line(name: str, cost: Cost, before: Cost | None) -> str:
    """Of the table."""
    beyond = [f"{'':9}", ""]
    if before is not None:
        more = cost.rows - before.rows
        beyond = [
            f"{(cost.processor - before.processor) / more * 1e6:9.1f}",
            f"{(cost.own - before.own) / more:11.0f}",
        ]
    return (
        f"{name:15}{cost.rows:>9}{cost.seconds:>8.1f}{cost.processor:>13.1f}"
        f"{beyond[0]}{cost.memory / 2**20:>6.0f}{cost.own / 2**20:>6.0f}{beyond[1]}"
    )


if __name__ == "__main__":
    main()
