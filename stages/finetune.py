"""Stage finetune: an adapter for BLIP-2 on (image, enhanced prompt), by one process or more.

With ``mode: keep`` the adapter is the one that ``compositional-prompts keep`` has set aside.
"""

from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.captioner.training.caption_curve import CaptionEpoch
from compositional_prompts.captioner.training.catalog_finetuning import FinetunePaths, train_adapter
from compositional_prompts.captioner.training.kept_adapter import keep_adapter
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.precision import with_fixed_precision
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.compute.resumable_stage import resumable_stage
from compositional_prompts.compute.training.learning_curve import write_curve
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(__doc__, *FinetunePaths.__annotations__, "source", "metrics")
    params, base = read_params(paths.params, Finetune)
    base = params.seeded(base)
    group = join_processes(resolve_device(base.device))
    if params.mode == "keep":
        if group.is_main_process:
            with run_stage("finetune"):
                metrics = keep_adapter(paths.source, paths.blip2, paths.adapter)
                write_curve(CaptionEpoch, [], paths.curve)
                write_metrics(metrics, paths.metrics)
        return
    trained = FinetunePaths(
        **{name: getattr(paths, name) for name in FinetunePaths.__annotations__}
    )
    params, computed = with_fixed_precision(params, group)
    run = "finetune", params, base.seed, trained.inputs, group
    with resumable_stage(*run, precision=computed) as stage:
        checkpoints = stage.checkpoints(base.checkpoint_seconds)
        words = read_vocabulary(paths.words).words
        outcome = train_adapter(trained, params, base, group, computed, checkpoints, words)
        if group.is_main_process:
            write_metrics(outcome.metrics | {"precision": str(computed)}, paths.metrics)
        stage.run.rows = outcome.images


if __name__ == "__main__":
    run_script(main)
