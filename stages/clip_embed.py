"""Stage clip_embed: CLIP vectors of every image and of the words that may describe it."""

from compositional_prompts.clip.catalog_vectors import (
    ClipVectors,
    embed_catalog,
    embed_words,
)
from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.rows.computation import kernel_batch
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(__doc__, "catalog", "clip", "images", "words")
    params, base = read_params(paths.params, ClipEmbed)
    with run_stage("clip_embed") as run:
        device = resolve_device(base.device)
        clip = load_clip(paths.clip, device)
        embed_words(clip, params.vocabulary, params.template, paths.words)
        batch_size = kernel_batch(device.type, params.batch_size)
        vectors = ClipVectors(paths.clip, device.type, batch_size)
        run.rows, run.computed = embed_catalog(vectors, paths.catalog, paths.images, base)


if __name__ == "__main__":
    run_script(main)
