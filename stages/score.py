"""Stage score: both captioners' captions against the enhanced prompts and the truth."""

from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.prompt.template import slot_reader
from compositional_prompts.scoring.caption_metrics.bert_score import load_bert_scorer
from compositional_prompts.scoring.caption_scores import score_captions, write_means
from compositional_prompts.scoring.parameters import Score
from compositional_prompts.scoring.score_table import SCORES
from compositional_prompts.scoring.scoring_inputs import read_inputs


def main() -> None:
    paths = path_arguments(
        __doc__,
        *("captions", "prompts", "catalog", "truth", "embeddings", "clip"),
        *("scores", "metrics", "plots"),
    )
    params, base = read_params(paths.params, Score)
    device, bert = resolve_device(base.device), params.bert_score
    with run_stage("score") as run:
        result = score_captions(
            read_inputs(paths.captions, paths.prompts, paths.catalog, paths.truth),
            paths.embeddings / "images",
            load_clip(paths.clip, device),
            slot_reader,
            params,
            load_bert_scorer(bert, params.batch_size, device) if bert else None,
        )
        write_table(result.table, paths.scores, SCORES)
        write_metrics(result.metrics, paths.metrics)
        write_means(result.metrics, paths.plots)
        run.rows = result.table.num_rows


if __name__ == "__main__":
    run_script(main)
