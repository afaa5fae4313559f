"""Train Troika on the labelled images: catalog, splits and CLIP in, the trained tensors out."""

from __future__ import annotations

from compositional_prompts.outputs import write_metrics
from compositional_prompts.params import TroikaTrain, read_params
from compositional_prompts.stage import path_arguments, run_stage
from compositional_prompts.troika.training import train, write_curve


def main() -> None:
    paths = path_arguments(
        __doc__, "catalog", "splits", "pairs", "clip", "model", "metrics", "plots", "timing"
    )
    params, base = read_params(paths.params, TroikaTrain)
    with run_stage("troika_train", paths.timing) as run:
        report = train(
            paths.catalog, paths.splits, paths.pairs, paths.clip, paths.model, params, base
        )
        write_curve(report.records, paths.plots)
        write_metrics(report.metrics, paths.metrics)
        run.rows = report.rows


if __name__ == "__main__":
    main()
