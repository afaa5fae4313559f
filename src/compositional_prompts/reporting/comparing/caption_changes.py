"""What two revisions say of the same photos, and which of them is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.tables import parquet_schema, read_columns
from compositional_prompts.prompt.template import slot_reader
from compositional_prompts.reporting.browsing.said_words import RIGHT, judge
from compositional_prompts.reporting.content.differences import compare
from compositional_prompts.reporting.content.galleries import attribute_groups
from compositional_prompts.reporting.content.photo_choice import rank

SAME, CHANGED, BETTER, WORSE = "same", "changed", "better", "worse"
"""Of a photo's two captions: equal; or of the second, as many parts right as of the first, more,
or fewer."""


@dataclass(frozen=True, slots=True)
class TablePaths:
    """Where a revision's tables lie, relative to its folder."""

    splits: Path
    prompts: Path
    captions: Path
    truth: Path


@dataclass(frozen=True, slots=True)
class CaptionChanges:
    """Photos that both revisions captioned.

    Attributes:
        rows: in the order of the second revision's captions: ``image_id``, ``split``, ``label``,
            ``kind`` (:data:`SAME` and the others), ``first`` and ``second`` captions, their
            ``marks``, and ``verdicts`` by ``places``.
        places: attribute, object, then the groups.
        kinds: photos of each kind.
        only_first, only_second: photos that one alone captioned.
    """

    rows: Sequence[Mapping[str, Any]]
    places: Sequence[str]
    kinds: Mapping[str, int]
    only_first: int
    only_second: int


def caption_changes(first: Path, second: Path, tables: TablePaths) -> CaptionChanges:
    """Compare the fine-tuned captions of two revisions.

    Both are judged by the labels and the truth of the second.

    Args:
        first, second: folders of the revisions.
        tables: where tables lie in both.

    Raises:
        MissingOutputError, SchemaError: a table is missing, or the truth not as declared.
        ValueError: no photo was captioned by both.
    """
    captions = {
        name: _captions(folder / tables.captions).rename({"caption": name})
        for name, folder in (("first", first), ("second", second))
    }
    both = captions["second"].join(
        captions["first"], on="image_id", how="inner", maintain_order="left"
    )
    if both.is_empty():
        raise ValueError(
            "no photo was captioned by both revisions: they are of other data, or other splits."
        )
    require_outputs(second / tables.splits, first / tables.prompts, second / tables.prompts)
    groups = attribute_groups(parquet_schema(second / tables.prompts).names)
    labels = pl.DataFrame(
        read_columns(second / tables.splits, ["image_id", "caption_split", "attribute", "object"])
    )
    both = both.join(labels, on="image_id", how="left", maintain_order="left")
    attributes = _attributes(first, second, tables, labels)
    # No prompt of either has an attribute where labels are objects alone.
    places = [*(["attribute"] if attributes else []), "object", *groups]
    truth = read_truth(second / tables.truth, both["image_id"].to_arrow(), groups)
    read = slot_reader(groups, attributes or None)
    rows = [
        _row(row, {group: truth[group][at] for group in groups}, places, read)
        for at, row in enumerate(both.iter_rows(named=True))
    ]
    return CaptionChanges(
        rows,
        places,
        Counter(row["kind"] for row in rows),
        len(captions["first"]) - len(both),
        len(captions["second"]) - len(both),
    )


def most_telling(changes: CaptionChanges, most: int, seed: int) -> list[Mapping[str, Any]]:
    """At most ``most`` photos, in their order: worse and better ones before others, then chance."""
    turn = {WORSE: 0, BETTER: 0, CHANGED: 1, SAME: 2}
    ordered = sorted(
        range(len(changes.rows)),
        key=lambda at: (
            turn[changes.rows[at]["kind"]],
            rank(changes.rows[at]["image_id"], f"{seed}/compared"),
        ),
    )
    return [changes.rows[at] for at in sorted(ordered[:most])]


def _captions(path: Path) -> pl.DataFrame:
    require_outputs(path)
    return pl.DataFrame(read_columns(path, ["image_id", "caption"]))


def _attributes(first: Path, second: Path, tables: TablePaths, labels: pl.DataFrame) -> set[str]:
    """Every attribute that a caption may name: those with an underscore must be known."""
    named = [
        pl.DataFrame(read_columns(folder / tables.prompts, ["attribute"]))["attribute"]
        for folder in (first, second)
    ]
    return {name for column in (*named, labels["attribute"]) for name in column.unique() if name}


def _row(
    row: Mapping[str, Any],
    truth: Mapping[str, Sequence[str]],
    places: Sequence[str],
    read: Callable[[str], Mapping[str, str | None] | None],
) -> dict[str, Any]:
    known = {
        "attribute": (row["attribute"],) if row["attribute"] else (),
        "object": (row["object"],) if row["object"] else (),
        **truth,
    }
    texts = row["first"], row["second"]
    verdicts = [judge(read(text), known, places) for text in texts]
    pair = [name for name in (row["attribute"], row["object"]) if name]
    return {
        "image_id": row["image_id"],
        "split": row["caption_split"],
        "label": pair if row["object"] else None,
        "kind": _kind(texts, verdicts),
        "first": row["first"],
        "second": row["second"],
        "marks": [
            [[span.text, span.differs] for span in compare(text, other)]
            for text, other in (texts, texts[::-1])
        ],
        "verdicts": verdicts,
    }


def _kind(texts: tuple[str, str], verdicts: Sequence[str]) -> str:
    if texts[0] == texts[1]:
        return SAME
    gain = verdicts[1].count(RIGHT) - verdicts[0].count(RIGHT)
    return BETTER if gain > 0 else WORSE if gain < 0 else CHANGED
