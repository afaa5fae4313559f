"""Stage drift: the photos of today beside those that kept models were trained from."""

from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.growth.drift import DriftPaths, measure_drift
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(__doc__, *DriftPaths.__annotations__, "metrics")
    read = DriftPaths(**{name: getattr(paths, name) for name in DriftPaths.__annotations__})
    with run_stage("drift") as run:
        metrics, run.rows = measure_drift(read)
        write_metrics(metrics, paths.metrics)


if __name__ == "__main__":
    run_script(main)
