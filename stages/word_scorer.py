"""Stage word_scorer: how words of every group are scored, learnt from what is known to be true."""

from compositional_prompts.compute.rows.computation import CPU_BATCH
from compositional_prompts.enhancement.fitting.altered_copies import AlteredCopies
from compositional_prompts.enhancement.fitting.labelled_images import FittingPaths
from compositional_prompts.enhancement.fitting.word_fitting import (
    PromptEnsembles,
    fit_from_tables,
    groups_in_templates,
)
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage

OTHERS = ("catalog", "words", "clip", "scorer", "metrics")


def main() -> None:
    paths = path_arguments(__doc__, *FittingPaths.__annotations__, *OTHERS)
    params, base = read_params(paths.params, Enhance)
    with run_stage("word_scorer") as run:
        vocabulary, ensembles = read_vocabulary(paths.words), None
        if groups := groups_in_templates(vocabulary.words, params):
            # Here, since cosines alone do without torch, whose import takes seconds.
            from compositional_prompts.clip.prompt_ensembles import embed_ensembles

            wanted = {group: vocabulary.words[group] for group in groups}
            ensembles = PromptEnsembles(*embed_ensembles(paths.clip, wanted, params.templates))
        copies = None
        if groups and params.altered_copies:
            from compositional_prompts.clip.catalog_vectors import ClipVectors
            from compositional_prompts.compute.devices import resolve_device

            device = resolve_device(base.device).type
            copies = AlteredCopies(paths.catalog, ClipVectors(paths.clip, device, CPU_BATCH), base)
        read = FittingPaths(**{name: getattr(paths, name) for name in FittingPaths.__annotations__})
        fitted = fit_from_tables(read, vocabulary, ensembles, params, copies)
        fitted.scorer.save(paths.scorer)
        write_metrics(fitted.metrics, paths.metrics)
        run.rows = sum(fit["train_images"] for fit in fitted.metrics.values())


if __name__ == "__main__":
    run_script(main)
