"""Stage colors: the colours of the product on every photo, where a group of words is of colours."""

from compositional_prompts.catalog.truth import known_groups
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.enhancement.colors.color_tables import wanted_palettes, write_colors
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.pipeline.error_messages import run_script
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.stage import path_arguments, run_stage


def main() -> None:
    paths = path_arguments(__doc__, "catalog", "truth", "colors")
    params, base = read_params(paths.params, Enhance)
    clip_embed, _ = read_params(paths.params, ClipEmbed)
    with run_stage("colors") as run:
        vocabulary = clip_embed.vocabulary
        palettes = wanted_palettes(vocabulary, known_groups(paths.truth), params)
        run.rows, run.computed = write_colors(
            paths.catalog, paths.colors, vocabulary, palettes, base
        )


if __name__ == "__main__":
    run_script(main)
