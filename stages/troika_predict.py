"""Stage troika_predict: attribute and object of every image, and how well unseen pairs are told."""

from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.troika.parameters import TroikaPredict
from compositional_prompts.troika.prediction import predict


def main() -> None:
    paths = path_arguments(
        __doc__, "catalog", "splits", "pairs", "clip", "model", "prompts", "metrics"
    )
    params, base = read_params(paths.params, TroikaPredict)
    with run_stage("troika_predict") as run:
        outcome = predict(
            paths.catalog,
            paths.splits,
            paths.pairs,
            paths.clip,
            paths.model,
            paths.prompts,
            params,
            base,
        )
        write_metrics(outcome.metrics, paths.metrics)
        run.rows, run.computed = outcome.images, outcome.computed


if __name__ == "__main__":
    run_script(main)
