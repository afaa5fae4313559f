"""Stage infer: captions of the untrained or, with an adapter, of the fine-tuned BLIP-2.

``infer.grammar`` holds captions to the grammar that lies in the adapter's folder. The untrained
model has no adapter and does not know the wording, so it writes freely all the same.
"""

import logging
from pathlib import Path

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.captioner.features.feature_store import read_metadata
from compositional_prompts.captioner.features.image_inputs import open_inputs
from compositional_prompts.captioner.inference import caption_split, grammar_of
from compositional_prompts.captioner.model.blip2_model import load_captioner
from compositional_prompts.captioner.model.lora import load_adapter
from compositional_prompts.captioner.parameters import Infer
from compositional_prompts.catalog.splitting.split_images import split_images
from compositional_prompts.compute.devices import resolve_device, seed_everything
from compositional_prompts.files.scratch import fingerprint, scratch_folder
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage

logger = logging.getLogger("compositional_prompts.infer")


def main() -> None:
    paths = path_arguments(
        __doc__, "features", "catalog", "splits", "blip2", "captions", "timing",
        optional=("adapter",),
    )  # fmt: skip
    params, base = read_params(paths.params, Infer)
    adapter: Path | None = paths.adapter
    name = f"infer-{paths.captions.stem}"
    with run_stage(name, paths.timing) as run:
        seed_everything(base.seed)
        device = resolve_device(base.device)
        cached = read_metadata(paths.features)["cache"]
        settings = {
            "params": params.model_dump(exclude={"batch_size"}),
            "seed": base.seed,
            "device": device.type,
        }
        read = [paths.features, paths.splits, paths.blip2, *([adapter] if adapter else [])]
        key = fingerprint(settings, read if cached else [*read, paths.catalog])
        with scratch_folder(name, key) as scratch:
            captioner = load_captioner(
                paths.blip2, device, params.precision, "language" if cached else "whole"
            )
            grammar = None
            if adapter is not None:
                load_adapter(captioner, adapter)
                grammar = grammar_of(captioner, adapter) if params.grammar else None
            elif params.grammar:
                logger.info("infer.grammar has no effect on the untrained captioner")
            table = caption_split(
                captioner,
                open_inputs(paths.features, paths.catalog, captioner, workers=base.workers),
                split_images(paths.splits, params.split, params.images, base.seed),
                params,
                seed=base.seed,
                grammar=grammar,
                scratch=scratch,
            )
            write_table(table, paths.captions, CAPTIONS)
        run.rows = len(table)


if __name__ == "__main__":
    run_script(main)
