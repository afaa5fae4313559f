"""Stage blip2_features: the output of BLIP-2's frozen half for every image, once."""

from compositional_prompts.captioner.extraction import compute_features
from compositional_prompts.captioner.loading import load_captioner
from compositional_prompts.devices import resolve_device
from compositional_prompts.params import Blip2Features, read_params
from compositional_prompts.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(__doc__, "catalog", "blip2", "features", "timing")
    params, base = read_params(paths.params, Blip2Features)
    with run_stage("blip2_features", paths.timing) as run:
        captioner = load_captioner(paths.blip2, resolve_device(base.device))
        run.rows = compute_features(
            captioner,
            paths.catalog,
            paths.features,
            batch_size=params.batch_size,
            workers=base.workers,
        )


if __name__ == "__main__":
    main()
