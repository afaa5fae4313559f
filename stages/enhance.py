"""Stage enhance: a word of every attribute group for every image, and the enhanced prompt."""

from compositional_prompts.enhancement.enhancing import EnhanceInputs, enhance_prompts
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.files.outputs import write_metrics
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
        inputs = EnhanceInputs(paths.prompts, paths.catalog, paths.truth, paths.embeddings)
        result = enhance_prompts(inputs, paths.enhanced, paths.confusion, params, base)
        write_metrics(result.metrics, paths.metrics)
        run.rows, run.computed = result.images, result.computed


if __name__ == "__main__":
    run_script(main)
