"""Stage finetune: LoRA fine-tuning of BLIP-2 on (image, enhanced prompt)."""

from compositional_prompts.captioner.features import FeatureStore
from compositional_prompts.captioner.finetuning import CaptionPairs, finetune
from compositional_prompts.captioner.loading import load_captioner
from compositional_prompts.captioner.selection import prompts_of, split_images
from compositional_prompts.devices import resolve_device
from compositional_prompts.outputs import write_metrics
from compositional_prompts.params import Finetune, read_params
from compositional_prompts.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(
        __doc__,
        "features", "prompts", "splits", "blip2", "adapter", "metrics", "curve", "timing",
    )  # fmt: skip
    params, base = read_params(paths.params, Finetune)
    with run_stage("finetune", paths.timing) as run:
        train = split_images(paths.splits, "train", params.train_images, base.seed)
        val = split_images(paths.splits, "val", None, base.seed)
        metrics = finetune(
            load_captioner(paths.blip2, resolve_device(base.device)),
            FeatureStore(paths.features),
            CaptionPairs(train, prompts_of(paths.prompts, train)),
            CaptionPairs(val, prompts_of(paths.prompts, val)),
            params,
            seed=base.seed,
            adapter=paths.adapter,
            curve=paths.curve,
        )
        write_metrics(metrics, paths.metrics)
        run.rows = len(train) * metrics["epochs"]


if __name__ == "__main__":
    main()
