"""Stage finetune: an adapter for BLIP-2 on (image, enhanced prompt).

``base.launcher`` may start it in several processes, which train together.
"""

from contextlib import ExitStack

from compositional_prompts.captioner.features.feature_store import read_metadata
from compositional_prompts.captioner.features.image_inputs import open_inputs
from compositional_prompts.captioner.model.blip2_model import load_captioner
from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.captioner.training.caption_batches import CaptionPairs
from compositional_prompts.captioner.training.caption_trainer import finetune
from compositional_prompts.catalog.splitting.split_images import split_images
from compositional_prompts.catalog.splitting.split_tables import PAIRS
from compositional_prompts.compute.checkpoints import Checkpoints
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.processes import join_processes
from compositional_prompts.enhancement.enhanced_prompts import prompts_of
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.scratch import fingerprint, scratch_folder
from compositional_prompts.files.tables import read_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import StageRun, path_arguments, run_stage


def main() -> None:
    paths = path_arguments(
        __doc__, "features", "catalog", "prompts", "splits", "pairs", "words", "blip2",
        "adapter", "metrics", "curve", "timing",
    )  # fmt: skip
    params, base = read_params(paths.params, Finetune)
    accelerator = join_processes(resolve_device(base.device))
    inputs = [paths.features, paths.prompts, paths.splits, paths.pairs, paths.words, paths.blip2]
    cached = read_metadata(paths.features)["cache"]
    settings = {
        "params": params.model_dump(),
        "seed": base.seed,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
    }
    with ExitStack() as stack:
        run, checkpoints = StageRun(), Checkpoints(None, base.checkpoint_seconds)
        if accelerator.is_main_process:
            run = stack.enter_context(run_stage("finetune", paths.timing))
            key = fingerprint(settings, inputs if cached else [*inputs, paths.catalog])
            scratch = stack.enter_context(scratch_folder("finetune", key))
            checkpoints = Checkpoints(scratch, base.checkpoint_seconds)
        captioner = load_captioner(
            paths.blip2, accelerator.device, params.precision, "language" if cached else "whole"
        )
        train = split_images(paths.splits, "train", params.train_images, base.seed)
        val = split_images(paths.splits, "val", None, base.seed)
        pairs = read_table(paths.pairs, PAIRS)
        outcome = finetune(
            captioner,
            open_inputs(
                paths.features, paths.catalog, captioner,
                workers=base.workers, augment=params.augment, seed=base.seed,
            ),
            CaptionPairs(train, prompts_of(paths.prompts, train, paths.splits)),
            CaptionPairs(val, prompts_of(paths.prompts, val, paths.splits)),
            params,
            pairs=zip(pairs["attribute"].to_pylist(), pairs["object"].to_pylist(), strict=True),
            words=read_vocabulary(paths.words).words,
            seed=base.seed,
            adapter=paths.adapter,
            curve=paths.curve,
            val_inputs=open_inputs(paths.features, paths.catalog, captioner, workers=base.workers),
            accelerator=accelerator,
            checkpoints=checkpoints,
        )  # fmt: skip
        if accelerator.is_main_process:
            write_metrics(outcome.metrics, paths.metrics)
        run.rows = outcome.images


if __name__ == "__main__":
    run_script(main)
