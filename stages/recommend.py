"""Stage recommend: the text to use of every image, its caption or its enhanced prompt."""

import logging

from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.scoring.parameters import Recommend
from compositional_prompts.scoring.recommended_texts import RECOMMENDED
from compositional_prompts.scoring.recommending import RecommendPaths, recommend_texts

logger = logging.getLogger("compositional_prompts")


def main() -> None:
    paths = path_arguments(
        __doc__,
        *("catalog", "splits", "truth", "prompts", "captions", "finetuning"),
        *("texts", "metrics"),
    )
    params, _ = read_params(paths.params, Recommend)
    target = read_params(paths.params, Finetune)[0].target
    with run_stage("recommend") as run:
        result = recommend_texts(
            RecommendPaths(
                catalog=paths.catalog,
                splits=paths.splits,
                truth=paths.truth,
                prompts=paths.prompts,
                captions=paths.captions,
                finetuning=paths.finetuning,
            ),
            params,
            target,
        )
        logger.info(result.metrics["reason"])
        for sentence in result.metrics["warnings"]:
            logger.warning("warning: %s", sentence)
        write_table(result.table, paths.texts, RECOMMENDED)
        write_metrics(result.metrics, paths.metrics)
        run.rows = result.table.num_rows


if __name__ == "__main__":
    run_script(main)
