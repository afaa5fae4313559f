"""Train Troika on the labelled images: catalog, splits and CLIP in, the trained tensors out.

``base.launcher`` may start it in several processes, which train together. With ``source:
reference`` the tensors are those of a checkpoint of the authors' instead.
"""

from __future__ import annotations

from contextlib import ExitStack

from compositional_prompts.compute.checkpoints import Checkpoints
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.learning_curve import write_curve
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.scratch import fingerprint, scratch_folder
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import StageRun, path_arguments, run_stage
from compositional_prompts.troika.authors.imported_model import import_reference
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.catalog_training import train
from compositional_prompts.troika.training.troika_curve import TroikaEpoch


def main() -> None:
    paths = path_arguments(
        __doc__, "catalog", "splits", "pairs", "clip", "source", "model", "metrics", "plots",
        "timing",
    )  # fmt: skip
    params, base = read_params(paths.params, TroikaTrain)
    accelerator = join_processes(resolve_device(base.device))
    if params.source == "reference":
        if accelerator.is_main_process:
            with run_stage("troika_train", paths.timing):
                report = import_reference(
                    paths.source, paths.pairs, paths.clip, paths.model, params
                )
                write_curve(TroikaEpoch, report.records, paths.plots)
                write_metrics(report.metrics, paths.metrics)
        return
    settings = {
        "params": params.model_dump(),
        "seed": base.seed,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
    }
    with ExitStack() as stack:
        run, checkpoints = StageRun(), Checkpoints(None, base.checkpoint_seconds)
        if accelerator.is_main_process:
            run = stack.enter_context(run_stage("troika_train", paths.timing))
            key = fingerprint(settings, [paths.catalog, paths.splits, paths.pairs, paths.clip])
            scratch = stack.enter_context(scratch_folder("troika_train", key))
            checkpoints = Checkpoints(scratch, base.checkpoint_seconds)
        report = train(
            paths.catalog,
            paths.splits,
            paths.pairs,
            paths.clip,
            paths.model,
            params,
            base,
            accelerator=accelerator,
            checkpoints=checkpoints,
        )
        if accelerator.is_main_process:
            write_curve(TroikaEpoch, report.records, paths.plots)
            write_metrics(report.metrics, paths.metrics)
        run.rows = report.rows


if __name__ == "__main__":
    run_script(main)
