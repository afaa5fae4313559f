"""Everything that the tables say of the photos that can be looked up, as data for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.outputs import MismatchedOutputsError
from compositional_prompts.files.tables import iterate_table
from compositional_prompts.prompt.template import slot_reader
from compositional_prompts.reporting.browsing.said_words import judge
from compositional_prompts.scoring.recommended_texts import RECOMMENDED
from compositional_prompts.scoring.score_table import SCORES
from compositional_prompts.troika.original_prompts import ORIGINAL_PROMPTS

_ROWS_AT_ONCE = 4096

TEXTS = ("recommended", "caption", "free", "untrained", "enhanced")
"""The texts that are judged, by the names that the page's data has for them."""

MEASURES = (
    *("bleu", "rouge1", "rouge2", "rougeL", "cider_d", "meteor_stem", "bert_score", "cosine"),
    *("clip_score", "ref_clip_score", "clip_caption", "clip_reference"),
)
_FOUR_DIGITS = 10_000


@dataclass(frozen=True, slots=True)
class PhotoTables:
    """Paths of the tables that tell of photos."""

    splits: Path
    original: Path
    prompts: Path
    captions: Path
    recommended: Path
    scores: Path
    truth: Path


@dataclass
class Interned:
    """Texts by number: captions repeat, and the page holds each once."""

    texts: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str | None) -> int | None:
        if text is None:
            return None
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]

    def numbers(self, texts: Iterable[str | None]) -> list[int | None]:
        return [self.number(text) for text in texts]


def photo_records(
    tables: PhotoTables, image_ids: Sequence[str], vocabulary: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The photos named, in columns.

    Texts are numbers into ``texts``; cosines and probabilities are ten thousandths; ``verdicts``
    have a letter a place (:func:`said_words.judge`), None where there is no such text. Where photos
    are named by objects alone, attribute is no place.

    Args:
        tables: where they are told of.
        image_ids: of photos that every table has, but those of captions and scores.
        vocabulary: words of every attribute group, in the order of their scores.

    Raises:
        MissingOutputError: a table is not there.
        SchemaError: one is not as declared.
        MismatchedOutputsError: a photo is not in a table that has all, or there are not as many
            scores as words.
    """
    rows = _joined(tables, image_ids, tuple(vocabulary))
    interned = Interned()
    alone = rows["named_attribute"].null_count() > 0
    places = [*([] if alone else ["attribute"]), "object", *vocabulary]
    truth = _truth(rows, tables.truth, image_ids, tuple(vocabulary))
    named = None if alone else _names(rows["label_attribute"], rows["named_attribute"])
    read = slot_reader(tuple(vocabulary), named)
    said = {name: [None if text is None else read(text) for text in rows[name]] for name in TEXTS}
    return {
        "places": places,
        "groups": [{"name": name, "words": list(words)} for name, words in vocabulary.items()],
        "measures": list(MEASURES),
        "photos": {
            "id": list(image_ids),
            "split": rows["caption_split"].to_list(),
            "attribute": interned.numbers(rows["label_attribute"]),
            "object": interned.numbers(rows["label_object"]),
            "true": {
                group: [interned.numbers(one[group]) or None for one in truth]
                for group in vocabulary
            },
            "top": [
                [[*interned.numbers(pair), _scaled(p)] for *pair, p in zip(*best, strict=True)]
                for best in rows.select("top_attributes", "top_objects", "top_probabilities").rows()
            ],
            "scores": {
                group: _word_scores(rows[f"{group}_scores"], words, tables.prompts)
                for group, words in vocabulary.items()
            },
            "lead": {
                group: [_scaled(value) for value in rows[f"{group}_margin"]] for group in vocabulary
            },
            "said": {
                place: interned.numbers((one or {}).get(place) for one in said["recommended"])
                for place in places
            },
            "source": interned.numbers(rows["source"]),
            "readable": interned.numbers(rows["readable"]),
            **{name: interned.numbers(rows[name]) for name in TEXTS},
            "verdicts": {
                name: [
                    None if text is None else judge(words, true, places)
                    for text, words, true in zip(rows[name], said[name], truth, strict=True)
                ]
                for name in TEXTS
            },
            "measured": _measured(tables.scores, image_ids),
        },
        "texts": interned.texts,
    }


def _joined(tables: PhotoTables, image_ids: Sequence[str], groups: Sequence[str]) -> pl.DataFrame:
    """A row for each of ``image_ids``, with what every table but scores and truth says of it."""
    label = {"attribute": "label_attribute", "object": "label_object"}
    scores = [f"{group}_{kind}" for group in groups for kind in ("scores", "margin")]
    everywhere: list[tuple[Path, pa.Schema, list[str], dict[str, str]]] = [
        (tables.splits, SPLITS, ["caption_split", "attribute", "object"], label),
        (
            tables.original,
            ORIGINAL_PROMPTS,
            ["top_attributes", "top_objects", "top_probabilities"],
            {},
        ),
        (
            tables.prompts,
            enhanced_prompts_schema(groups),
            ["attribute", *scores],
            {"attribute": "named_attribute"},
        ),
        (
            tables.recommended,
            RECOMMENDED,
            ["enhanced", "caption", "free_caption", "recommended", "source", "readable"],
            {"free_caption": "free"},
        ),
    ]
    frame = pl.DataFrame({"image_id": image_ids}, {"image_id": pl.String})
    for path, schema, columns, names in everywhere:
        found = _rows_of(path, schema, columns, image_ids).rename(names)
        _require_all(found["image_id"], image_ids, path)
        frame = frame.join(found, on="image_id", how="left", maintain_order="left")
    base = _rows_of(tables.captions / "base.parquet", CAPTIONS, ["caption"], image_ids)
    untrained = base.rename({"caption": "untrained"})
    return frame.join(untrained, on="image_id", how="left", maintain_order="left")


def _rows_of(
    path: Path, schema: pa.Schema, columns: Sequence[str], image_ids: Sequence[str]
) -> pl.DataFrame:
    """Of a table that may be large, the rows asked for alone."""
    names = ["image_id", *columns]
    wanted = pa.array(image_ids, pa.string())
    # By Arrow: of a damaged page Polars says nothing but that a thread of its own panicked.
    found = [
        batch.filter(pc.is_in(batch.column("image_id"), wanted))
        for batch in iterate_table(path, schema, _ROWS_AT_ONCE, names)
    ]
    declared = pa.schema([schema.field(name) for name in names])
    return pl.DataFrame(pa.Table.from_batches(found, declared))


def _require_all(found: pl.Series, image_ids: Sequence[str], path: Path) -> None:
    missing = set(image_ids) - set(found)
    if missing or len(found) != len(image_ids):
        first = f"lacks image {min(missing)!r}" if missing else "has an image twice"
        raise MismatchedOutputsError(
            f"{path} {first}: it must be made from the catalog as it is.", path
        )


def _names(*columns: pl.Series) -> set[str]:
    return {name for column in columns for name in column.unique() if name is not None}


def _truth(
    rows: pl.DataFrame, truth: Path, image_ids: Sequence[str], groups: Sequence[str]
) -> list[dict[str, tuple[str, ...]]]:
    words = read_truth(truth, pl.Series(image_ids, dtype=pl.String).to_arrow(), groups)
    labels = zip(rows["label_attribute"], rows["label_object"], strict=True)
    return [
        {
            "attribute": () if attribute is None else (attribute,),
            "object": () if object_ is None else (object_,),
            **{group: words[group][row] for group in groups},
        }
        for row, (attribute, object_) in enumerate(labels)
    ]


def _scaled(value: float) -> int:
    return round(value * _FOUR_DIGITS)


def _word_scores(column: pl.Series, words: Sequence[str], prompts: Path) -> list[list[int]]:
    scores = column.to_list()
    wrong = {len(one) for one in scores} - {len(words)}
    if wrong:
        raise MismatchedOutputsError(
            f"{prompts}: {column.name} has {wrong.pop()} scores of a photo, and "
            f"clip_embed.attributes has {len(words)} words.",
            prompts,
        )
    return [[_scaled(value) for value in one] for one in scores]


def _measured(scores: Path, image_ids: Sequence[str]) -> dict[str, list[list[Any] | None]]:
    """By captioner, :data:`MEASURES`, exact match and CLIP's preference of photos."""
    names = [*MEASURES, "captioner", "exact_match", "clip_preference"]
    table = _rows_of(scores, SCORES, names, image_ids)
    place = {image_id: row for row, image_id in enumerate(image_ids)}
    found: dict[str, list[list[Any] | None]] = {}
    for row in table.sort("captioner", "image_id").iter_rows(named=True):
        column = found.setdefault(row["captioner"], [None] * len(image_ids))
        column[place[row["image_id"]]] = [
            *(None if row[name] is None else _scaled(row[name]) for name in MEASURES),
            row["exact_match"],
            row["clip_preference"],
        ]
    return found
