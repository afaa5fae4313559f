"""Stage summary: of all that was measured, the figures that decide, beside their baselines."""

from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.results.summary_metrics import summarize


def main() -> None:
    paths = path_arguments(__doc__, "metrics", "summary")
    with run_stage("summary") as run:
        summary = summarize(paths.metrics)
        write_metrics(summary, paths.summary)
        run.rows = len(summary)


if __name__ == "__main__":
    run_script(main)
