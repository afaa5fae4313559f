"""What is wrong with captions, in sentences that say what would help."""

from __future__ import annotations

from typing import Final

from compositional_prompts.scoring.judged_texts import Judgement
from compositional_prompts.scoring.recommended_texts import CAPTION, ENHANCED

FEW_TRAINING_IMAGES: Final = 500
"""Learnt from 50 of the sample's photos, captions have 50 % of the objects of validation and test
photos right, from 200 65 %, from 500 81 % and from all 1,915 87 %, by the grammar with 5 beams; the
enhanced prompts have 91 %."""

POOR_OBJECTS: Final = 2 / 3
"""A captioner that names fewer objects as it should than this is wrong of every third photo."""

FAR_BELOW: Final = 0.1
"""By so much of the known words captions may stay behind the enhanced prompts without a warning."""


def caption_warnings(
    judgement: Judgement, train_images: int, captions: int, off_template: int
) -> list[str]:
    """What whoever uses the captions must know; nothing if all is well.

    Args:
        judgement: what validation shows.
        train_images: how many images the captioner learnt from.
        captions: how many were made.
        off_template: of these, how many do not follow the template.
    """
    warnings = []
    if train_images < FEW_TRAINING_IMAGES:
        warnings.append(
            f"The captioner learnt from {train_images:,} images, and under "
            f"{FEW_TRAINING_IMAGES:,} it learns the form of a caption but few of its words: more "
            "photos would help, and with so few a greedy search (infer.num_beams: 1) is right more "
            "often."
        )
    if off_template:
        warnings.append(
            f"{off_template:,} of {captions:,} captions do not follow the template; the enhanced "
            "prompt is recommended in their place: infer.grammar: true writes none of them."
        )
    caption, enhanced = judgement.accuracy[CAPTION], judgement.accuracy[ENHANCED]
    true_objects = caption.places["object"].value
    objects = caption.same_object.value if true_objects is None else true_objects
    if objects is not None and objects < POOR_OBJECTS:
        of = "the enhanced prompt's" if true_objects is None else "the right"
        warnings.append(
            f"Captions name {of} object on {objects:.0%} of the validation images: more photos of "
            "every kind of object, or more epochs (finetune.epochs), would help."
        )
    right, right_enhanced = caption.right_words.value, enhanced.right_words.value
    if right is not None and right_enhanced is not None and right_enhanced - right > FAR_BELOW:
        warnings.append(
            f"Captions have {right:.0%} of the known words of the validation images "
            f"right, enhanced prompts {right_enhanced:.0%}: use the enhanced prompts, or "
            "train on more photos."
        )
    if not judgement.images:
        warnings.append(
            "No validation image has a caption, so nobody knows how right captions are: more "
            "photos, or a larger split.fractions.val, would give some."
        )
    elif not judgement.labelled:
        warnings.append(
            "No validation image has a label or truth, so nobody knows how right any text is: "
            "labels for some photos (download.folder.labels) would tell."
        )
    return warnings
