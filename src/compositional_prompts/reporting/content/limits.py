"""What a reader must know before trusting or comparing the figures of this run."""

from __future__ import annotations

from dataclasses import dataclass

from compositional_prompts.captioner.parameters import Blip2Features
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.weights.parameters import Weights

_DATA_SETS = {
    "sample": (
        "The photos are drawn, not taken",
        "This data set is generated: simple shoes on white, with labels that are right by "
        "construction. It shows that every stage works; it says nothing about real photographs.",
    ),
    "fashion_products": (
        "A shop's labels are the truth",
        "Colors and types are those a shop typed in. Some are wrong, some products have two "
        "colors and one label, and several names (navy blue, blue) lie close to one another.",
    ),
    "ut_zappos": (
        "A shop's labels are the truth",
        "Materials and types are those a shop typed in, and some photos show neither plainly. Of "
        "a shoe with several materials, the data set's split keeps one as its attribute; where "
        "several words are true, any of them counts as right.",
    ),
    "mit_states": (
        "Labels came from a search engine",
        "Photos were found by the words of a search and not checked one by one: a large share of "
        "the labels is wrong, and every figure on this data set is bounded by that.",
    ),
    "cgqa": (
        "One label of many that fit",
        "Labels come from scene graphs: an object often has other attributes that are as true as "
        "the one labelled, and naming them counts as wrong.",
    ),
    "folder": (
        "Your labels are the truth",
        "Accuracies compare with the labels given in the CSV, as they are. Where there are none, "
        "nothing can be measured and the page shows a dash.",
    ),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit, in a heading and a sentence or two."""

    heading: str
    text: str


def limits(download: Download, weights: Weights, features: Blip2Features) -> list[Limit]:
    """The limits that hold for these parameters."""
    found = [Limit(*_DATA_SETS[download.dataset])]
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
            Limit(
                "Small models, trained here",
                f"{' and '.join(micro)} of this run: a small model of the published architecture, "
                "trained from scratch in minutes. Its figures are not comparable with those "
                "published for the full-size models.",
            )
        )
    if features.cache:
        found.append(
            Limit(
                "Frozen features, without dropout",
                "The vision tower and Q-Former run once in evaluation mode and are read from a "
                "cache. The original fine-tuning leaves the Q-Former's dropout (0.1) on.",
            )
        )
    found += [
        Limit(
            "The report's figures are a yardstick",
            "They come from BLIP-2 OPT-2.7b on 200 images of UT-Zappos50K. Other images, prompts "
            "and models give other figures.",
        ),
        Limit(
            "Most of a caption is template",
            "Seven of the ten words of “A photo of Canvas_Sandals with white color and rubber "
            "material” are in every prompt, so text metrics are high as soon as the template is "
            "learnt. The accuracy of each part is the stricter measure.",
        ),
        Limit(
            "The reference is made by machine",
            "Captions are scored against the enhanced prompts, which Troika and CLIP wrote and "
            "which can be wrong. Only the columns named truth compare with labels.",
        ),
        Limit(
            "CLIP judges captions of its own making",
            "The same CLIP that chose the words prefers one caption to the other. Equal captions "
            "are counted apart as ties; the report does not say how it counted them.",
        ),
        Limit(
            "Times are of one machine",
            "Wall times and memory are those of each stage's last run, which may have been on "
            "another machine or read from a cache.",
        ),
    ]
    return found
