"""A page that asks what is true of photos: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositional_prompts.catalog.truth import CANNOT_TELL, NONE_OF_THESE, SEPARATOR
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.reporting.browsing.inline_script import (
    LISTING,
    as_json,
    content_policy,
    script,
)
from compositional_prompts.reporting.drawing.thumbnails import PhotoSize, read_small_photos
from compositional_prompts.reporting.page_environment import page_environment, page_style

_SCRIPT = Path(__file__).with_name("asking.js")

PICTURES = PhotoSize(sides=(448, 336, 256, 192), mean_bytes=12_000)
"""Large enough to tell a colour by; a thousand of them are 16 MB of page."""


@dataclass(frozen=True, slots=True)
class Question:
    """What word of a group is true of a photo.

    Attributes:
        image_id: of the photo.
        product_id: of its product.
        group: of attributes.
        suggestion: the model's word, or None where it must not be told.
        probability: of that word, or None.
    """

    image_id: str
    product_id: str
    group: str
    suggestion: str | None
    probability: float | None


def write_asking_page(
    questions: Sequence[Question],
    vocabulary: Mapping[str, Sequence[str]],
    catalog: Path,
    page: Path,
    *,
    order: str,
    folder: Path,
    workers: int,
) -> str:
    """Write ``page``, which asks the questions in their order.

    Args:
        questions: at least one.
        vocabulary: the words to choose from, by group; of other groups too.
        catalog: folder of the catalog's shards.
        page: file to write; it appears whole or not at all.
        order: a sentence on why the questions stand in this order.
        folder: where people put the CSV.
        workers: threads that decode photos.

    Returns:
        The name of the CSV that the page lets people download.

    Raises:
        MissingOutputError, DamagedOutputError, SchemaError, ImageJoinError: the catalog is not
            there, damaged, or lacks a photo.
    """
    ids = list(dict.fromkeys(question.image_id for question in questions))
    photos = read_small_photos(catalog, ids, workers, PICTURES)
    asked = _asked(questions, vocabulary, ids)
    # What is asked names the round: the page keeps answers by it, and its CSV is called so.
    mark = content_digest(as_json(asked).encode()).hex()[:8]
    name = "-".join(["labels", *(group["name"] for group in asked["groups"]), mark]) + ".csv"
    text = script([LISTING, _SCRIPT])
    rendered = (
        page_environment()
        .get_template("asking/asking.html.jinja")
        .render(
            style=page_style(),
            content_policy=content_policy(text),
            script=text,
            groups=[group["name"] for group in asked["groups"]],
            questions=len(questions),
            order=order,
            folder=folder,
            file=name,
            asked=as_json(asked | {"file": name, "mark": mark}),
            pictures=as_json(
                {
                    "paths": [photos[image_id].path for image_id in ids],
                    "webp": [photos[image_id].webp for image_id in ids],
                }
            ),
        )
    )
    with atomic_file(page) as temporary:
        temporary.write_text(rendered, encoding="utf-8")
    return name


def _asked(
    questions: Sequence[Question], vocabulary: Mapping[str, Sequence[str]], ids: Sequence[str]
) -> dict[str, Any]:
    groups = list(dict.fromkeys(question.group for question in questions))
    group_places = {group: place for place, group in enumerate(groups)}
    photo_places = {image_id: place for place, image_id in enumerate(ids)}
    product_of = {question.image_id: question.product_id for question in questions}
    return {
        "groups": [{"name": group, "words": list(vocabulary[group])} for group in groups],
        "photos": [{"id": image_id, "product": product_of[image_id]} for image_id in ids],
        "questions": [
            {
                "photo": photo_places[question.image_id],
                "group": group_places[question.group],
                "suggestion": question.suggestion,
                "probability": question.probability,
            }
            for question in questions
        ],
        "none": NONE_OF_THESE,
        "unknown": CANNOT_TELL,
        "separator": SEPARATOR,
    }
