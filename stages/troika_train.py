"""Stage troika_train: Troika learns to name attribute and object, from images of seen pairs.

``mode: reference`` takes a checkpoint of the authors' instead, and ``keep`` what is kept already.
"""

from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.precision import with_fixed_precision
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.compute.resumable_stage import resumable_stage
from compositional_prompts.compute.training.learning_curve import write_curve
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.troika.authors.imported_model import import_reference
from compositional_prompts.troika.model.kept_troika import keep_troika
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.catalog_training import train
from compositional_prompts.troika.training.troika_curve import TroikaEpoch

DATA = "catalog", "splits", "pairs", "clip"


def main() -> None:
    paths = path_arguments(__doc__, *DATA, "source", "model", "metrics", "curve")
    params, base = read_params(paths.params, TroikaTrain)
    base, group = params.seeded(base), join_processes(resolve_device(base.device))
    if params.mode != "train":
        if group.is_main_process:
            with run_stage("troika_train"):
                take = keep_troika if params.mode == "keep" else import_reference
                metrics = take(paths.source, paths.pairs, paths.clip, paths.model, params)
                write_curve(TroikaEpoch, [], paths.curve)
                write_metrics(metrics, paths.metrics)
        return
    params, computed = with_fixed_precision(params, group)
    run = "troika_train", params, base.seed, [getattr(paths, name) for name in DATA], group
    with resumable_stage(*run, precision=computed) as stage:
        points = stage.checkpoints(base.checkpoint_seconds)
        of = paths.catalog, paths.splits, paths.pairs, paths.clip, paths.model, params, base
        report = train(*of, accelerator=group, checkpoints=points, curve=paths.curve)
        if group.is_main_process:
            write_curve(TroikaEpoch, report.records, paths.curve)
            write_metrics(report.metrics | {"precision": str(computed)}, paths.metrics)
        stage.run.rows = report.rows


if __name__ == "__main__":
    run_script(main)
