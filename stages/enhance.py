"""Choose a word of every attribute group for every image and write the enhanced prompts."""

from compositional_prompts.catalog import schema
from compositional_prompts.catalog.tables import write_table
from compositional_prompts.enhancement.enhance import enhance_prompts, write_confusions
from compositional_prompts.outputs import write_metrics
from compositional_prompts.params import Enhance, read_params
from compositional_prompts.stage import path_arguments, run_stage


def main() -> None:
    """Run the stage."""
    paths = path_arguments(
        __doc__, "prompts", "catalog", "embeddings", "enhanced", "metrics", "confusion", "timing"
    )
    params, base = read_params(paths.params, Enhance)
    with run_stage("enhance", paths.timing) as run:
        result = enhance_prompts(
            paths.prompts, paths.catalog, paths.embeddings, params, base.workers
        )
        write_table(
            result.table, paths.enhanced, schema.enhanced_prompts(tuple(result.evaluations))
        )
        write_metrics(result.metrics(), paths.metrics)
        write_confusions(result.evaluations, paths.confusion)
        run.rows = result.table.num_rows


if __name__ == "__main__":
    main()
