"""A round of labelling: photos are chosen, and asked for on a page and in a CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from compositional_prompts.catalog.splitting.split_tables import JUDGED_SPLIT, SCORED_SPLIT
from compositional_prompts.enhancement.word_probabilities import word_probabilities
from compositional_prompts.enhancement.word_scorer import WordScorer, load_word_scorer
from compositional_prompts.files.outputs import (
    MismatchedOutputsError,
    atomic_file,
    require_outputs,
)
from compositional_prompts.files.records.spreadsheet_cells import CsvTable
from compositional_prompts.labelling.candidates import (
    MOST,
    CandidatePaths,
    Candidates,
    gather_candidates,
)
from compositional_prompts.labelling.hand_labels import (
    ID_COLUMNS,
    PROBABILITY,
    PRODUCT_COLUMN,
    SUGGESTION,
    HandLabels,
    read_hand_labels,
)
from compositional_prompts.labelling.informative_choice import choose_informative
from compositional_prompts.pipeline.dvc_file import PipelineError
from compositional_prompts.reporting.asking.asking_page import Question, write_asking_page

Purpose = Literal["learning", "measuring"]

SPLITS_FOR: Final[Mapping[Purpose, Collection[str]]] = {
    "learning": ("train",),
    "measuring": (JUDGED_SPLIT, SCORED_SPLIT),
}
"""The caption splits that photos are taken from."""

ORDER: Final[Mapping[Purpose, str]] = {
    "learning": "Those that help most stand first.",
    "measuring": "They were drawn at random, so that figures on them hold for all.",
}
"""What the page says of its questions."""


class NothingToLabelError(ValueError):
    """No photo is left whose word is not known."""


@dataclass(frozen=True)
class RoundPaths:
    """What a round reads: tables, shards of the catalog, what scores words, and labels by hand."""

    tables: CandidatePaths
    catalog: Path
    scorer: Path
    labels: Path

    @property
    def read(self) -> list[Path]:
        """Everything that stages have written."""
        tables = self.tables
        return [
            *(tables.prompts, tables.splits, tables.truth, tables.vectors),
            *(self.catalog, self.scorer),
        ]


@dataclass(frozen=True)
class RoundSettings:
    """What is asked for.

    Attributes:
        groups: of attributes, each with its share of the photos.
        photos: how many, over all groups.
        purpose: photos to learn from are chosen, those to measure by are drawn at random.
        seed: what chance follows from.
        workers: threads that decode photos.
    """

    groups: Sequence[str]
    photos: int
    purpose: Purpose
    seed: int
    workers: int


def round_paths(paths: Mapping[str, Mapping[str, Path]]) -> RoundPaths:
    """The paths of a round, of those that stages are given (:func:`stage_paths`).

    Raises:
        PipelineError: the pipeline has no such stages, or they have no such arguments.
    """
    try:
        return RoundPaths(
            CandidatePaths(
                prompts=paths["enhance"]["enhanced"],
                splits=paths["split"]["splits"],
                truth=paths["truth"]["truth"],
                vectors=paths["clip_embed"]["images"],
            ),
            catalog=paths["truth"]["catalog"],
            scorer=paths["enhance"]["scorer"],
            labels=paths["truth"]["labels"],
        )
    except KeyError as error:
        raise PipelineError(f"dvc.yaml has no stage or argument {error}.") from error


def write_round(
    paths: RoundPaths,
    vocabulary: Mapping[str, Sequence[str]],
    settings: RoundSettings,
    page: Path,
    listing: Path,
) -> str:
    """Choose photos, and write the page that asks for their words and the list of them.

    To learn from, training photos are chosen (:func:`choose_informative`) whose word is not known.
    To measure by, validation and test photos are drawn, each as likely as any other and without a
    suggestion. Photos that people answered for, or could not tell, are not asked for again.

    Memory holds the vectors of MOST photos at most, the truth and the labels.

    Args:
        paths: what is read.
        vocabulary: the words of every group.
        settings: what is asked for.
        page: HTML file to write.
        listing: CSV to write: image_id, product_id, and for each group an empty column of its name,
            the suggestion and its probability.

    Returns:
        What was written and what to do with it, for people.

    Raises:
        ValueError: a group is not in the vocabulary.
        NothingToLabelError: no group has a photo left.
        LabelsError: labels made by hand are not as they must be.
        OutputError: a table is not there, damaged, or does not fit the others.
    """
    for group in settings.groups:
        if group not in vocabulary:
            raise ValueError(
                f"there is no group {group!r}: clip_embed.attributes has {', '.join(vocabulary)}."
            )
    require_outputs(*paths.read)
    answers = read_hand_labels(paths.labels, vocabulary)
    scorer = _scorer(paths.scorer, vocabulary)
    questions: list[Question] = []
    left = {}
    for group, wanted in _shares(settings.groups, settings.photos).items():
        found = gather_candidates(
            paths.tables,
            group,
            vocabulary[group],
            SPLITS_FOR[settings.purpose],
            answers.answers[group],
            most=MOST if settings.purpose == "learning" else wanted,
            key=f"{settings.seed}/label/{group}",
        )
        asked = _questions(found, group, vocabulary[group], wanted, settings, paths, scorer)
        left[group] = found.total - len(asked)
        questions += asked
    if not questions:
        raise NothingToLabelError(_nothing(settings, answers))
    file = write_asking_page(
        questions,
        vocabulary,
        paths.catalog,
        page,
        order=ORDER[settings.purpose],
        folder=paths.labels,
        workers=settings.workers,
    )
    _write_listing(questions, settings.groups, listing)
    counts = Counter(question.group for question in questions)
    return "\n".join(
        [
            *(
                f"{group}: {count} photos to label, {left[group]} more have no known word"
                for group, count in counts.items()
            ),
            f"{page}: open it in a browser and pick; {listing} lists the same photos",
            f"Then move {file} into {paths.labels}/ and run `dvc repro`.",
        ]
    )


def _shares(groups: Sequence[str], photos: int) -> dict[str, int]:
    """Equal ones; what is left over goes to the first."""
    each, more = divmod(photos, len(groups))
    return {group: each + (place < more) for place, group in enumerate(groups)}


def _scorer(path: Path, vocabulary: Mapping[str, Sequence[str]]) -> WordScorer:
    scorer = load_word_scorer(path)
    if {group: list(words) for group, words in scorer.words.items()} != dict(vocabulary):
        raise MismatchedOutputsError(
            f"{path} scores other words than clip_embed.attributes has.", path
        )
    return scorer


def _nothing(settings: RoundSettings, answers: HandLabels) -> str:
    splits = " and ".join(SPLITS_FOR[settings.purpose])
    return (
        f"no photo to label: every image of {splits} has a known word of "
        f"{', '.join(settings.groups)}, or people were asked for it ({answers.files} files of "
        "labels)."
    )


def _questions(
    found: Candidates,
    group: str,
    words: Sequence[str],
    wanted: int,
    settings: RoundSettings,
    paths: RoundPaths,
    scorer: WordScorer,
) -> list[Question]:
    if not found.image_ids or not wanted:
        return []
    if settings.purpose == "measuring":
        # They are in random order; what the model says would lead whoever answers.
        return [
            Question(image_id, product_id, group, None, None)
            for image_id, product_id in zip(found.image_ids, found.product_ids, strict=True)
        ][:wanted]
    probabilities = word_probabilities(scorer.groups[group], found.scores)
    rows = choose_informative(
        probabilities,
        found.vectors(paths.tables.vectors),
        found.products,
        wanted,
        np.random.default_rng(settings.seed),
    )
    return [
        Question(
            found.image_ids[row],
            found.product_ids[row],
            group,
            words[int(probabilities[row].argmax())],
            round(float(probabilities[row].max()), 4),
        )
        for row in rows.tolist()
    ]


def _write_listing(questions: Sequence[Question], groups: Sequence[str], listing: Path) -> None:
    rows: dict[str, dict[str, str | float]] = {}
    for question in questions:
        row = rows.setdefault(
            question.image_id,
            {
                ID_COLUMNS[0]: question.image_id,
                PRODUCT_COLUMN: question.product_id,
            },
        )
        if question.suggestion is not None and question.probability is not None:
            row[SUGGESTION.format(question.group)] = question.suggestion
            row[PROBABILITY.format(question.group)] = question.probability
    columns = [
        *(ID_COLUMNS[0], PRODUCT_COLUMN),
        *(f.format(group) for group in groups for f in ("{}", SUGGESTION, PROBABILITY)),
    ]
    with atomic_file(listing) as temporary, temporary.open("w", -1, "utf-8", newline="") as file:
        table = CsvTable(file, columns, "\r\n")
        for row in rows.values():
            table.write(row)
