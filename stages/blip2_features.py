"""Stage blip2_features: the output of BLIP-2's frozen half for every image, once."""

from compositional_prompts.captioner.features.extraction import compute_features
from compositional_prompts.captioner.features.feature_store import write_uncached
from compositional_prompts.captioner.model.blip2_model import load_captioner
from compositional_prompts.captioner.parameters import Blip2Features
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.precision import DTYPES, with_fixed_precision
from compositional_prompts.compute.resumable_stage import resumable_stage
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments


def main() -> None:
    paths = path_arguments(__doc__, "catalog", "blip2", "features")
    params, base = read_params(paths.params, Blip2Features)
    device = resolve_device(base.device)
    params, computed = with_fixed_precision(params, device)
    inputs = [paths.catalog, paths.blip2]
    with resumable_stage(
        "blip2_features", params, None, inputs, device, precision=computed
    ) as stage:
        if not params.cache:
            write_uncached(paths.features)
            return
        stage.run.rows = compute_features(
            load_captioner(paths.blip2, device, computed.precision, half="frozen"),
            paths.catalog,
            paths.features,
            dtype=DTYPES[params.dtype],
            batch_size=params.batch_size,
            workers=base.workers,
            scratch=stage.scratch,
        )


if __name__ == "__main__":
    run_script(main)
