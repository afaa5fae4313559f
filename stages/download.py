"""Stage download: images and labels of the chosen data set, checked, as the Parquet catalog."""

from typing import Any

import pyarrow as pa

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.splitting.split_tables import LISTED_PAIRS
from compositional_prompts.datasets.compositional import (
    select_cgqa,
    select_mit_states,
    select_ut_zappos,
)
from compositional_prompts.datasets.fashion_products import select_products
from compositional_prompts.datasets.folder import select_images
from compositional_prompts.datasets.ingestion import Selection, ingest
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.section import Base
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.sample.drawn_products import generate_catalog


def sample_row(
    *, color: str, material: str, closure: str, heel_height: str, **labels: Any
) -> CatalogRow:
    truth = {"color": color, "material": material, "closure": closure, "heel_height": heel_height}
    return CatalogRow(truth=truth, **labels)


def select(params: Download, base: Base) -> Selection:
    """What ``params.dataset`` offers."""
    match params.dataset:
        case "sample":
            images = params.sample.images
            generated = generate_catalog(images, base.seed, base.workers)
            rows = (sample_row(**row._asdict()) for row in generated)
            return Selection("the generated sample", rows, images, {})
        case "fashion_products":
            return select_products(params.fashion_products)
        case "ut_zappos":
            return select_ut_zappos(params.ut_zappos)
        case "mit_states":
            return select_mit_states(params.mit_states)
        case "cgqa":
            return select_cgqa(params.cgqa)
        case "folder":
            return select_images(params.folder)


def main() -> None:
    paths = path_arguments(
        __doc__, "catalog", "truth", "rejected", "listed_pairs", "metrics", "timing"
    )
    params, base = read_params(paths.params, Download)
    with run_stage("download", paths.timing) as run:
        selection = select(params, base)
        metrics = ingest(
            selection, paths.catalog, paths.truth, paths.rejected, params, base.workers
        )
        listed = pa.Table.from_pylist([pair._asdict() for pair in selection.pairs], LISTED_PAIRS)
        write_table(listed, paths.listed_pairs, LISTED_PAIRS)
        write_metrics(metrics, paths.metrics)
        run.rows = metrics["images"]


if __name__ == "__main__":
    run_script(main)
