"""Score the untrained and the fine-tuned captions against the enhanced prompts and the truth."""

from compositional_prompts.catalog import schema
from compositional_prompts.catalog.tables import write_table
from compositional_prompts.clip.loading import load_clip
from compositional_prompts.devices import resolve_device
from compositional_prompts.enhancement.embeddings import iterate_image_vectors
from compositional_prompts.enhancement.prompts import PromptTemplate
from compositional_prompts.outputs import write_metrics
from compositional_prompts.params import Score, read_params
from compositional_prompts.scoring.inputs import read_inputs
from compositional_prompts.scoring.score import score_captions, write_means
from compositional_prompts.stage import path_arguments, run_stage


def main() -> None:
    """Run the stage."""
    paths = path_arguments(
        __doc__,
        *("captions", "prompts", "catalog", "embeddings", "clip"),
        *("scores", "metrics", "plots", "timing"),
    )
    params, base = read_params(paths.params, Score)
    with run_stage("score", paths.timing) as run:
        result = score_captions(
            read_inputs(paths.captions, paths.prompts, paths.catalog),
            iterate_image_vectors(paths.embeddings / "images.parquet"),
            load_clip(paths.clip, resolve_device(base.device)),
            lambda groups, names: PromptTemplate(groups, attributes=names).read_slots,
            params,
        )
        write_table(result.table, paths.scores, schema.SCORES)
        write_metrics(result.metrics, paths.metrics)
        write_means(result.metrics, paths.plots)
        run.rows = result.table.num_rows


if __name__ == "__main__":
    main()
