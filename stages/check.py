"""Stage check: the whole of params.yaml, before anything runs by it."""

from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.project.whole_params import check_params


def main() -> None:
    paths = path_arguments(__doc__, "checked")
    with run_stage("check") as run:
        run.rows = check_params(paths.params, paths.checked)


if __name__ == "__main__":
    run_script(main)
