"""Stage infer: captions of the untrained or, with an adapter, of the fine-tuned BLIP-2."""

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.captioner.features.image_inputs import load_for_inputs, open_inputs
from compositional_prompts.captioner.inference import (
    caption_split,
    images_to_caption,
    merge_adapter,
)
from compositional_prompts.captioner.parameters import Infer
from compositional_prompts.compute.devices import resolve_device, seed_everything
from compositional_prompts.compute.precision import with_fixed_precision
from compositional_prompts.compute.resumable_stage import resumable_stage
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments

NAMES = ("features", "catalog", "splits", "blip2", "captions")


def main() -> None:
    paths = path_arguments(__doc__, *NAMES, optional=("adapter",))
    params, base = read_params(paths.params, Infer)
    device = resolve_device(base.device)
    params, computed = with_fixed_precision(params, device)
    inputs = [paths.features, paths.catalog, paths.splits, paths.blip2]
    inputs += [paths.adapter] if paths.adapter else []
    run = f"infer-{paths.captions.stem}", params, base.seed, inputs, device
    with resumable_stage(*run, precision=computed, without=("batch_size",)) as stage:
        seed_everything(base.seed)
        captioner = load_for_inputs(paths.blip2, paths.features, device, computed.precision)
        images = images_to_caption(paths.splits, params, base.seed, trained=bool(paths.adapter))
        table = caption_split(
            captioner,
            open_inputs(paths.features, paths.catalog, captioner, workers=base.workers),
            images.captioned,
            params,
            seed=base.seed,
            grammar=merge_adapter(captioner, paths.adapter, params),
            scratch=stage.scratch,
            free_too=images.free_too,
        )
        write_table(table, paths.captions, CAPTIONS)
        stage.run.rows = len(table)


if __name__ == "__main__":
    run_script(main)
