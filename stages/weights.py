"""Stage weights: the CLIPs and the BLIP-2, from the hub, from a path, or pretrained small."""

from functools import partial

from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments
from compositional_prompts.weights.parameters import Weights


def main() -> None:
    paths = path_arguments(__doc__, "corpus", "clip", "troika_clip", "blip2")
    params, base = read_params(paths.params, Weights)
    # Here, so that the processes that draw photos, which load this file too, start without torch.
    from compositional_prompts.compute.devices import resolve_device
    from compositional_prompts.compute.precision import with_fixed_precision
    from compositional_prompts.compute.resumable_stage import resumable_stage
    from compositional_prompts.weights.provision import provide_weights

    device = resolve_device(base.device)
    computed = None
    if params.pretrains:
        pretrain, computed = with_fixed_precision(params.pretrain, device)
        params = params.model_copy(update={"pretrain": pretrain})
    run = "weights", params, base.seed, [paths.corpus], device
    with resumable_stage(*run, precision=computed) as stage:
        stage.run.rows = provide_weights(
            params,
            corpus=paths.corpus,
            clip=paths.clip,
            troika_clip=paths.troika_clip,
            blip2=paths.blip2,
            seed=base.seed,
            workers=base.workers,
            device=device,
            checkpoints=partial(stage.checkpoints, base.checkpoint_seconds),
        )


if __name__ == "__main__":
    run_script(main)
