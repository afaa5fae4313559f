"""Stage stability: the words of test photos that were saved again, reduced or cropped."""

from compositional_prompts.clip.catalog_vectors import ClipVectors
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.rows.computation import CPU_BATCH
from compositional_prompts.enhancement.altered.word_stability import (
    StabilityPaths,
    measure_stability,
)
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(__doc__, *StabilityPaths.__annotations__, "clip", "metrics")
    params, base = read_params(paths.params, Enhance)
    with run_stage("stability") as run:
        vectors = ClipVectors(paths.clip, resolve_device(base.device).type, CPU_BATCH)
        read = StabilityPaths(
            **{key: getattr(paths, key) for key in StabilityPaths.__annotations__}
        )
        result = measure_stability(
            read, vectors, images=params.stability_images, threshold=params.threshold, base=base
        )
        write_metrics(result.metrics, paths.metrics)
        run.rows, run.computed = result.images, result.computed


if __name__ == "__main__":
    run_script(main)
