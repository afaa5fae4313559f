"""Stage infer: captions of the untrained or, with an adapter, of the fine-tuned BLIP-2."""

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.captioner.inference import (
    CaptionInputs,
    caption_split,
    captions_wanted,
    images_to_caption,
)
from compositional_prompts.captioner.parameters import Infer
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.precision import resolve_precision
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage

NAMES = ("features", "catalog", "splits", "blip2", "captions", "metrics")


def main() -> None:
    paths = path_arguments(__doc__, *NAMES, optional=("adapter",))
    params, base = read_params(paths.params, Infer)
    device = resolve_device(base.device)
    with run_stage(f"infer-{paths.captions.stem}") as run:
        precision = resolve_precision(params.precision, device)
        run.compute_in(str(precision), precision.reason)
        inputs = CaptionInputs(paths.features, paths.catalog)
        images = images_to_caption(paths.splits, params, base.seed, trained=bool(paths.adapter))
        computation = captions_wanted(
            paths.blip2, paths.adapter, inputs.known, params, base, device, precision
        )
        captions = caption_split(computation, inputs, images, params, base)
        write_table(captions.table, paths.captions, CAPTIONS)
        write_metrics({"captions": len(captions.table), "cut": captions.cut}, paths.metrics)
        run.rows, run.computed = len(captions.table), captions.computed


if __name__ == "__main__":
    run_script(main)
