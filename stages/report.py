"""Gather every stage's results in one self-contained HTML page and its figures."""

from __future__ import annotations

from compositional_prompts.params import Report, read_params
from compositional_prompts.reporting.page import ReportPaths, build_report
from compositional_prompts.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(
        __doc__,
        "dvc_yaml",
        "catalog",
        "splits",
        "prompts",
        "captions",
        "scores",
        "metrics",
        "page",
        "figures",
        "timing",
    )
    report, base = read_params(paths.params, Report)
    with run_stage("report", paths.timing) as run:
        run.rows = build_report(
            ReportPaths(
                dvc_yaml=paths.dvc_yaml,
                params=paths.params,
                catalog=paths.catalog,
                splits=paths.splits,
                prompts=paths.prompts,
                captions=paths.captions,
                scores=paths.scores,
                metrics=paths.metrics,
                page=paths.page,
                figures=paths.figures,
            ),
            title=report.title,
            gallery_images=report.gallery_images,
            seed=base.seed,
        )


if __name__ == "__main__":
    main()
