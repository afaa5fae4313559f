"""What a reader must know before trusting or comparing the figures of this run."""

from __future__ import annotations

from compositional_prompts.captioner.parameters import Blip2Features, Target
from compositional_prompts.datasets.dataset import Caveat
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.weights.parameters import Weights


def limits(
    download: Download, weights: Weights, features: Blip2Features, target: Target = "enhanced"
) -> list[Caveat]:
    """The limits that hold for these parameters."""
    found = [download.chosen.caveat]
    micro = [
        name
        for name, source in (
            ("CLIP", weights.clip.source),
            ("BLIP-2", weights.blip2.source),
        )
        if source == "pretrain"
    ]
    if micro:
        found.append(
            Caveat(
                "Small models, trained here",
                f"{' and '.join(micro)} of this run: a small model of the published architecture, "
                "trained from scratch in minutes. Its figures are not comparable with those "
                "published for the full-size models.",
            )
        )
    if features.cache:
        found.append(
            Caveat(
                "Frozen features, without dropout",
                "The vision tower and Q-Former run once in evaluation mode and are read from a "
                "cache. The original fine-tuning leaves the Q-Former's dropout (0.1) on.",
            )
        )
    if target == "title":
        return [
            *found,
            Caveat(
                "Titles are one way to say it",
                "Captions are scored against the title that somebody gave the photo or product, "
                "which may name what no photo shows, and which other right captions differ from. "
                "The report's figures are of enhanced prompts and are no yardstick here.",
            ),
        ]
    found += [
        Caveat(
            "The report's figures are a yardstick",
            "They come from BLIP-2 OPT-2.7b on 200 images of UT-Zappos50K. Other images, prompts "
            "and models give other figures.",
        ),
        Caveat(
            "Most of a caption is template",
            "Seven of the ten words of “A photo of Canvas_Sandals with white color and rubber "
            "material” are in every prompt, so text metrics are high as soon as the template is "
            "learnt. The accuracy of each part is the stricter measure.",
        ),
        Caveat(
            "The reference is made by machine",
            "Captions are scored against the enhanced prompts, which Troika and CLIP wrote and "
            "which can be wrong. Only the columns named truth compare with labels.",
        ),
        Caveat(
            "CLIP judges captions of its own making",
            "The same CLIP that chose the words prefers one caption to the other. Equal captions "
            "are counted apart as ties; the report does not say how it counted them.",
        ),
    ]
    return found
