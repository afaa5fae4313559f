"""What a data set knows of its images, and what people said of them, as one truth."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from compositional_prompts.catalog.reading import iterate_ids
from compositional_prompts.catalog.truth import (
    NONE_OF_THESE,
    TRUTH,
    TruthTable,
    open_truth,
)
from compositional_prompts.files.outputs import atomic_file, require_outputs
from compositional_prompts.files.tables import iterate_table, require_whole_table
from compositional_prompts.labelling.hand_labels import HandLabels, read_hand_labels
from compositional_prompts.prompt.text_form import word_form

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 2**16
_SHOWN = 3


@dataclass
class _GroupCounts:
    """Of the images in the catalog that people answered for in one group."""

    images: int = 0
    none_of_these: int = 0
    cannot_tell: int = 0
    as_the_data_set: int = 0
    replaced: int = 0


@dataclass
class _Counts:
    groups: dict[str, _GroupCounts]
    found: set[str] = field(default_factory=set)


def merge_truth(
    own: Path,
    labels: Path,
    catalog: Path,
    truth: Path,
    vocabulary: Mapping[str, Sequence[str]],
) -> tuple[dict[str, Any], int]:
    """Write the truth of all images: what people said where they said it, else the data set's own.

    A word that a person picked takes the place of all words that the data set has of the image in
    that group; where the person cannot tell, these stay. Images that the catalog does not have are
    counted and said. Without any label the table is copied, if all of it can be read. Memory holds
    20 bytes a true word, the labels, and some ten thousand rows.

    Args:
        own: what the data set knows (TRUTH).
        labels: folder of CSV files (:func:`read_hand_labels`).
        catalog: folder of the catalog's shards.
        truth: table (TRUTH) to write, in the order of the catalog.
        vocabulary: the words of every group.

    Returns:
        The metrics, and the number of images of the catalog. ``files``: of labels.
        ``unknown_images``: images with an answer that the catalog lacks. ``groups``: by group, of
        the others, ``images`` (answered), ``none_of_these`` and ``cannot_tell`` among them,
        ``as_the_data_set`` (the same words as it has), ``replaced`` (others).

    Raises:
        LabelsError: labels are not as they must be.
        MissingOutputError, DamagedOutputError: a table is not there, or damaged.
        SchemaError: it is not as declared.
    """
    require_outputs(own)
    given = read_hand_labels(labels, vocabulary)
    counts = _Counts({group: _GroupCounts() for group in vocabulary})
    images = 0
    if given:
        images = _write_merged(own, given, catalog, truth, counts)
    else:
        images = sum(len(ids) for ids in iterate_ids(catalog))
        require_whole_table(own, TRUTH)
        with atomic_file(truth) as temporary:
            shutil.copyfile(own, temporary)
    unknown = [image for image in given.image_ids if image not in counts.found]
    _say(given, counts, unknown, labels)
    return {
        "files": given.files,
        "unknown_images": len(unknown),
        "groups": {group: vars(one) for group, one in counts.groups.items()},
    }, images


def _write_merged(own: Path, given: HandLabels, catalog: Path, truth: Path, counts: _Counts) -> int:
    groups = list(dict.fromkeys([*_groups(own), *given.answers]))
    table = TruthTable(own, groups)
    answered = set(given.image_ids)
    images = 0
    with open_truth(truth) as writer:
        for part in iterate_ids(catalog):
            for start in range(0, len(part), _ROWS_AT_ONCE):
                ids = part.slice(start, _ROWS_AT_ONCE)
                known = table.of(ids)
                for row, image_id in enumerate(ids.to_pylist()):
                    words = {group: known[group][row] for group in groups}
                    if image_id in answered:
                        counts.found.add(image_id)
                        words |= _counted_answers(image_id, words, given, counts)
                    writer.write_words(image_id, words)
                images += len(ids)
    return images


def _groups(own: Path) -> Iterator[str]:
    for batch in iterate_table(own, TRUTH, _ROWS_AT_ONCE, ["group"]):
        yield from pc.unique(batch.column("group")).to_pylist()


def _counted_answers(
    image_id: str, own: Mapping[str, tuple[str, ...]], given: HandLabels, counts: _Counts
) -> dict[str, tuple[str, ...]]:
    """By group, the words that take the place of the data set's own."""
    found = {}
    for group, answers in given.answers.items():
        if image_id not in answers:
            continue
        words, count = answers[image_id].words, counts.groups[group]
        count.images += 1
        count.none_of_these += words == (NONE_OF_THESE,)
        count.cannot_tell += not words
        if words:
            found[group] = words
            same = set(map(word_form, own[group])) == set(map(word_form, words))
            count.as_the_data_set += bool(own[group]) and same
            count.replaced += bool(own[group]) and not same
    return found


def _say(given: HandLabels, counts: _Counts, unknown: Sequence[str], labels: Path) -> None:
    for group, count in counts.groups.items():
        if count.images:
            log.info(
                "%s: %d images labelled by hand, of which %d have none of the words and %d cannot "
                "be told; %d as the data set has them, %d replaced",
                *(group, count.images, count.none_of_these, count.cannot_tell),
                *(count.as_the_data_set, count.replaced),
            )
    if unknown:
        log.warning(
            "warning: %d of the %d images that %s names are not in the catalog, and their labels "
            "wait: %s",
            *(len(unknown), len(given.image_ids), labels),
            ", ".join(map(repr, unknown[:_SHOWN])) + (" ..." if len(unknown) > _SHOWN else ""),
        )
