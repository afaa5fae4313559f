"""Stage enhance: a word of every attribute group for every image, and the enhanced prompt."""

from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.enhancement.enhancing import enhance_prompts, write_confusions
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(
        __doc__,
        *("prompts", "catalog", "truth", "embeddings"),
        *("enhanced", "metrics", "confusion"),
    )
    params, base = read_params(paths.params, Enhance)
    with run_stage("enhance") as run:
        result = enhance_prompts(
            paths.prompts, paths.catalog, paths.truth, paths.embeddings, params, base.workers
        )
        write_table(
            result.table, paths.enhanced, enhanced_prompts_schema(tuple(result.evaluations))
        )
        write_metrics(result.metrics(), paths.metrics)
        write_confusions(result.evaluations, paths.confusion)
        run.rows = result.table.num_rows


if __name__ == "__main__":
    run_script(main)
