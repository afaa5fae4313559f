"""Stage download: images and labels of the chosen data set, checked, as the Parquet catalog."""

from compositional_prompts.catalog.datasets.fashion_products import select_products
from compositional_prompts.catalog.datasets.folder import select_images
from compositional_prompts.catalog.datasets.sample.generation import generate_catalog
from compositional_prompts.catalog.ingestion import Selection, ingest
from compositional_prompts.catalog.shards import CatalogRow
from compositional_prompts.outputs import write_metrics
from compositional_prompts.params import Base, Download, read_params
from compositional_prompts.stage import path_arguments, run_stage


def select(params: Download, base: Base) -> Selection:
    """What ``params.dataset`` offers."""
    match params.dataset:
        case "sample":
            images = params.sample.images
            generated = generate_catalog(images, base.seed, base.workers)
            rows = (CatalogRow(**row._asdict()) for row in generated)
            return Selection("the generated sample", rows, images, {})
        case "fashion_products":
            return select_products(params.fashion_products)
        case "folder":
            return select_images(params.folder)


def main() -> None:
    paths = path_arguments(__doc__, "catalog", "rejected", "metrics", "timing")
    params, base = read_params(paths.params, Download)
    with run_stage("download", paths.timing) as run:
        metrics = ingest(select(params, base), paths.catalog, paths.rejected, params, base.workers)
        write_metrics(metrics, paths.metrics)
        run.rows = metrics["images"]


if __name__ == "__main__":
    main()
