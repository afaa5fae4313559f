"""Stage enhance: a word of every attribute group for every image, and the enhanced prompt."""

from compositional_prompts.enhancement.enhancing import (
    EnhanceInputs,
    EnhancePlots,
    enhance_prompts,
)
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage

TABLES, CURVES = tuple(EnhanceInputs.__annotations__), tuple(EnhancePlots.__annotations__)


def main() -> None:
    paths = path_arguments(__doc__, *TABLES, "enhanced", "metrics", *CURVES)
    params, _ = read_params(paths.params, Enhance)
    with run_stage("enhance") as run:
        inputs = EnhanceInputs(**{name: getattr(paths, name) for name in TABLES})
        plots = EnhancePlots(**{name: getattr(paths, name) for name in CURVES})
        result = enhance_prompts(inputs, paths.enhanced, plots, params)
        write_metrics(result.metrics, paths.metrics)
        run.rows = result.images


if __name__ == "__main__":
    run_script(main)
