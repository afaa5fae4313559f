"""Stage truth: the data set's own truth, and labels made by hand, as one table."""

from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.labelling.merged_truth import merge_truth
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(__doc__, "own", "labels", "catalog", "truth", "metrics")
    params, _ = read_params(paths.params, ClipEmbed)
    with run_stage("truth") as run:
        metrics, run.rows = merge_truth(
            paths.own, paths.labels, paths.catalog, paths.truth, params.vocabulary
        )
        write_metrics(metrics, paths.metrics)


if __name__ == "__main__":
    run_script(main)
