"""Stage report: the results of all stages on one self-contained page, and its figures."""

from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.project.whole_params import read_all_params
from compositional_prompts.reporting.content.limits import limits
from compositional_prompts.reporting.page import PageSettings, ReportPaths, build_report
from compositional_prompts.reporting.parameters import Report


def main() -> None:
    paths = path_arguments(
        __doc__,
        *("dvc_yaml", "catalog", "truth", "rejected", "splits", "original", "prompts"),
        *("captions", "recommended", "scores", "metrics"),
        *("page", "figures"),
    )
    params, base = read_params(paths.params, Report)
    everything = read_all_params(paths.params)
    with run_stage("report") as run:
        run.rows = build_report(
            ReportPaths(**{name: getattr(paths, name) for name in ReportPaths.__annotations__}),
            limits(
                everything.download,
                everything.weights,
                everything.blip2_features,
                everything.finetune.target,
            ),
            PageSettings(
                title=params.title,
                gallery_images=params.gallery_images,
                photos=params.photos,
                vocabulary=everything.clip_embed.vocabulary,
                threshold=everything.enhance.threshold,
                seed=base.seed,
                workers=base.workers,
            ),
        )


if __name__ == "__main__":
    run_script(main)
