"""Stage download: images and labels of the chosen data set, checked, as the Parquet catalog."""

import pyarrow as pa

from compositional_prompts.catalog.splitting.split_tables import LISTED_PAIRS
from compositional_prompts.datasets.ingestion import ingest
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(__doc__, "catalog", "truth", "rejected", "listed_pairs", "metrics")
    params, base = read_params(paths.params, Download)
    with run_stage("download") as run:
        selection = params.chosen.select(base)
        metrics, run.computed = ingest(
            selection, paths.catalog, paths.truth, paths.rejected, params, base
        )
        listed = pa.Table.from_pylist([pair._asdict() for pair in selection.pairs], LISTED_PAIRS)
        write_table(listed, paths.listed_pairs, LISTED_PAIRS)
        write_metrics(metrics, paths.metrics)
        run.rows = metrics["images"]


if __name__ == "__main__":
    run_script(main)
