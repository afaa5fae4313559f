"""Stage check_data: the data against the parameters, before anything costly."""

from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.project.data_checks import DataPaths, check_data
from compositional_prompts.troika.parameters import TroikaPredict, TroikaTrain


def main() -> None:
    paths = path_arguments(__doc__, "splits", "pairs", "truth", "catalog", "checked", "warnings")
    clip_embed, _ = read_params(paths.params, ClipEmbed)
    enhance, _ = read_params(paths.params, Enhance)
    troika_train, _ = read_params(paths.params, TroikaTrain)
    troika_predict, _ = read_params(paths.params, TroikaPredict)
    finetune, _ = read_params(paths.params, Finetune)
    with run_stage("check_data") as run:
        run.rows = check_data(
            DataPaths(paths.splits, paths.pairs, paths.truth, paths.catalog),
            clip_embed,
            enhance,
            troika_train,
            troika_predict,
            finetune,
            proof=paths.checked,
            doubts=paths.warnings,
        )


if __name__ == "__main__":
    run_script(main)
