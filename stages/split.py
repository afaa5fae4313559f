"""Stage split: which images train, validate and test, and which pairs stay unseen in training."""

from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.catalog.splitting.assignment import (
    LABEL_COLUMNS,
    REPEATED_COLUMNS,
    make_splits,
)
from compositional_prompts.catalog.splitting.corpus import write_corpus, write_empty_corpus
from compositional_prompts.catalog.splitting.equal_photos import contents_across_splits
from compositional_prompts.catalog.splitting.parameters import Split
from compositional_prompts.catalog.splitting.split_tables import LISTED_PAIRS
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.files.tables import give_freed_memory_back, read_table
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage
from compositional_prompts.results.stage_metrics import read_metrics


def main() -> None:
    paths = path_arguments(
        __doc__, "catalog", "listed_pairs", "download", "splits", "pairs", "corpus", "metrics"
    )
    params, base = read_params(paths.params, Split)
    give_freed_memory_back()
    with run_stage("split") as run:
        labels = read_labels(paths.catalog, LABEL_COLUMNS, repeated=REPEATED_COLUMNS)
        listed = read_table(paths.listed_pairs, LISTED_PAIRS)
        assignment = params.assignment_of(grows=read_metrics(paths.download)["grows"])
        splits = make_splits(labels, params, base.seed, listed, assignment=assignment)
        splits.write(paths.splits, paths.pairs)
        corpus_images = 0
        if params.corpus:
            corpus_images = write_corpus(paths.catalog, splits.images, paths.corpus)
        else:
            write_empty_corpus(paths.corpus)
        across = contents_across_splits(paths.catalog, splits.images)
        counts = {"equal_images_across_splits": across, "corpus_images": corpus_images}
        write_metrics(splits.metrics | counts, paths.metrics)
        run.rows = splits.images.num_rows


if __name__ == "__main__":
    run_script(main)
