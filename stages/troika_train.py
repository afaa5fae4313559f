"""Stage troika_train: Troika learns to name attribute and object, from images of seen pairs.

``base.launcher`` may start it in several processes, which train together. With ``source:
reference`` the tensors are those of a checkpoint of the authors' instead.
"""

from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.learning_curve import write_curve
from compositional_prompts.compute.precision import with_fixed_precision
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.compute.resumable_stage import resumable_stage
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments
from compositional_prompts.troika.authors.imported_model import import_reference
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.catalog_training import train
from compositional_prompts.troika.training.troika_curve import TroikaEpoch

INPUTS = ("catalog", "splits", "pairs", "clip", "source")


def main() -> None:
    paths = path_arguments(__doc__, *INPUTS, "model", "metrics", "curve")
    params, base = read_params(paths.params, TroikaTrain)
    group = join_processes(resolve_device(base.device))
    params, computed = with_fixed_precision(params, group)
    inputs = [getattr(paths, name) for name in INPUTS]
    run = "troika_train", params, base.seed, inputs, group
    with resumable_stage(*run, precision=computed) as stage:
        if params.source == "train":
            report = train(
                paths.catalog, paths.splits, paths.pairs, paths.clip, paths.model, params, base,
                accelerator=group, checkpoints=stage.checkpoints(base.checkpoint_seconds),
                curve=paths.curve,
            )  # fmt: skip
        elif group.is_main_process:
            report = import_reference(paths.source, paths.pairs, paths.clip, paths.model, params)
        else:
            return
        if group.is_main_process:
            write_curve(TroikaEpoch, report.records, paths.curve)
            write_metrics(report.metrics | {"precision": str(computed)}, paths.metrics)
        stage.run.rows = report.rows


if __name__ == "__main__":
    run_script(main)
