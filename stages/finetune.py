"""Stage finetune: an adapter for BLIP-2 on (image, enhanced prompt), by one process or more."""

from compositional_prompts.captioner.features.image_inputs import load_for_inputs, open_inputs
from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.captioner.training.caption_batches import CaptionPairs
from compositional_prompts.captioner.training.caption_trainer import finetune
from compositional_prompts.catalog.splitting.split_tables import PAIRS
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.precision import with_fixed_precision
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.compute.resumable_stage import resumable_stage
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import read_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments

INPUTS = ("features", "catalog", "prompts", "splits", "pairs", "words", "blip2")


def main() -> None:
    paths = path_arguments(__doc__, *INPUTS, "adapter", "metrics", "curve")
    params, base = read_params(paths.params, Finetune)
    group = join_processes(resolve_device(base.device))
    params, computed = with_fixed_precision(params, group)
    inputs = [getattr(paths, name) for name in INPUTS]
    run = "finetune", params, base.seed, inputs, group
    with resumable_stage(*run, precision=computed) as stage:
        captioner = load_for_inputs(paths.blip2, paths.features, group.device, computed.precision)
        source = paths.features, paths.catalog, captioner
        pairs = read_table(paths.pairs, PAIRS)
        outcome = finetune(
            captioner,
            open_inputs(*source, workers=base.workers, augment=params.augment, seed=base.seed),
            CaptionPairs.read(paths.splits, paths.prompts, "train", params.train_images, base.seed),
            CaptionPairs.read(paths.splits, paths.prompts, "val", None, base.seed), params,
            pairs=zip(pairs["attribute"].to_pylist(), pairs["object"].to_pylist(), strict=True),
            words=read_vocabulary(paths.words).words, adapter=paths.adapter, curve=paths.curve,
            seed=base.seed, checkpoints=stage.checkpoints(base.checkpoint_seconds),
            accelerator=group, val_inputs=open_inputs(*source, workers=base.workers),
        )  # fmt: skip
        if group.is_main_process:
            write_metrics(outcome.metrics | {"precision": str(computed)}, paths.metrics)
        stage.run.rows = outcome.images


if __name__ == "__main__":
    run_script(main)
