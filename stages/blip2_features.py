"""Stage blip2_features: the output of BLIP-2's frozen half for every image, once."""

from compositional_prompts.captioner.features.extraction import extract_features, frozen_features
from compositional_prompts.captioner.features.feature_shards import write_uncached
from compositional_prompts.captioner.parameters import Blip2Features
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.precision import resolve_precision
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(__doc__, "catalog", "blip2", "features")
    params, base = read_params(paths.params, Blip2Features)
    device = resolve_device(base.device)
    with run_stage("blip2_features") as run:
        if not params.cache:
            write_uncached(paths.features)
            return
        precision = resolve_precision(params.precision, device)
        run.compute_in(str(precision), precision.reason)
        computation = frozen_features(paths.blip2, params, device, precision)
        run.rows, run.computed = extract_features(computation, paths.catalog, paths.features, base)


if __name__ == "__main__":
    run_script(main)
