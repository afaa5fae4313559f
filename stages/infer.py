"""Stage infer: captions of the untrained or, with an adapter, of the fine-tuned BLIP-2."""

from pathlib import Path

import pyarrow as pa

from compositional_prompts.captioner.features import FeatureStore
from compositional_prompts.captioner.finetuning import load_adapter
from compositional_prompts.captioner.generation import caption_images
from compositional_prompts.captioner.loading import load_captioner
from compositional_prompts.captioner.selection import split_images
from compositional_prompts.catalog.schema import CAPTIONS
from compositional_prompts.catalog.tables import write_table
from compositional_prompts.devices import resolve_device, seed_everything
from compositional_prompts.params import Infer, read_params
from compositional_prompts.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(
        __doc__, "features", "splits", "blip2", "captions", "timing", optional=("adapter",)
    )
    params, base = read_params(paths.params, Infer)
    adapter: Path | None = paths.adapter
    with run_stage(f"infer-{paths.captions.stem}", paths.timing) as run:
        seed_everything(base.seed)
        captioner = load_captioner(paths.blip2, resolve_device(base.device))
        if adapter is not None:
            load_adapter(captioner, adapter)
        image_ids = split_images(paths.splits, params.split, params.images, base.seed)
        captions = caption_images(
            captioner,
            FeatureStore(paths.features),
            image_ids,
            batch_size=params.batch_size,
            num_beams=params.num_beams,
            max_new_tokens=params.max_new_tokens,
        )
        table = pa.table([image_ids, captions], schema=CAPTIONS)
        write_table(table, paths.captions, CAPTIONS)
        run.rows = len(captions)


if __name__ == "__main__":
    main()
