"""The rows of an exported data set: a photo, its text, what that says, and how sure it is.

All tables are read side by side in the catalog's order, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compositional_prompts.catalog.aligned_table import AlignedTable
from compositional_prompts.catalog.reading import iterate_batches, iterate_ids
from compositional_prompts.catalog.splitting.split_tables import PAIRS_OF_OBJECTS, SPLITS
from compositional_prompts.catalog.truth import SEPARATOR, TruthTable
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.enhancement.word_probabilities import word_probabilities
from compositional_prompts.enhancement.word_scorer import WordScorer, load_word_scorer
from compositional_prompts.files.outputs import MismatchedOutputsError
from compositional_prompts.files.tables import iterate_table, read_table, required
from compositional_prompts.pipeline.dvc_file import PipelineError
from compositional_prompts.prompt.pair import objects_alone
from compositional_prompts.prompt.template import slot_reader
from compositional_prompts.scoring.recommended_texts import CAPTION, ENHANCED, RECOMMENDED
from compositional_prompts.scoring.scoring_inputs import prompt_groups
from compositional_prompts.troika.original_prompts import PROMPTS_OF_OBJECTS

Captions = Literal["recommended", "readable", "enhanced", "finetuned"]
"""Which text of a photo is its caption."""

PAIR: Final = "pair"
"""The place of attribute and object together, as far as confidence goes."""

_ROWS_AT_ONCE: Final = 1024
_PHOTOS_AT_ONCE: Final = 256
_DIGITS: Final = 4

Slots = Mapping[str, str | None]
"""What a text says by place; there is no attribute where labels are objects alone."""


@dataclass(frozen=True)
class ExportPaths:
    """What is read: the catalog's folder, tables, and the folder of the word scorer."""

    catalog: Path
    splits: Path
    truth: Path
    pairs: Path
    original: Path
    enhanced: Path
    recommended: Path
    scorer: Path

    def read(self, captions: Captions) -> list[Path]:
        """Those that a kind of captions takes."""
        paths = [
            *(self.catalog, self.splits, self.truth, self.pairs, self.original, self.enhanced),
            self.scorer,
        ]
        return paths if captions == ENHANCED else [*paths, self.recommended]


def export_paths(paths: Mapping[str, Mapping[str, Path]]) -> ExportPaths:
    """The paths of an export, of those that stages are given (:func:`stage_paths`).

    Raises:
        PipelineError: the pipeline has no such stages, or they have no such arguments.
    """
    try:
        return ExportPaths(
            catalog=paths["truth"]["catalog"],
            splits=paths["split"]["splits"],
            truth=paths["truth"]["truth"],
            pairs=paths["split"]["pairs"],
            original=paths["enhance"]["prompts"],
            enhanced=paths["enhance"]["enhanced"],
            recommended=paths["recommend"]["texts"],
            scorer=paths["enhance"]["scorer"],
        )
    except KeyError as error:
        raise PipelineError(f"dvc.yaml has no stage or argument {error}.") from error


class GroupColumns(NamedTuple):
    """What the columns of a group of attributes are called."""

    word: str
    confidence: str
    truth: str


class ExportColumns:
    """The columns of an export, those of the photo aside.

    Attributes:
        groups: of each attribute group, its columns: named by it, or, where another column is
            called so, by ``group_`` before it.
        schema: every column in its order.
    """

    def __init__(self, groups: Sequence[str]) -> None:
        self.groups: dict[str, GroupColumns] = {}
        taken = {field.name for field in (*_BEGINNING, *_END)} | {"image", "file_name", "id"}
        for group in groups:
            names = _group_columns(group)
            while not taken.isdisjoint(names):
                names = _group_columns(f"group_{names.word}")
            taken |= set(names)
            self.groups[group] = names
        self.schema = pa.schema(
            [
                *_BEGINNING,
                *(
                    pa.field(name, pa.float64() if name == names.confidence else pa.string())
                    for names in self.groups.values()
                    for name in names
                ),
                *_END,
            ]
        )


def _group_columns(group: str) -> GroupColumns:
    return GroupColumns(group, f"{group}_confidence", f"{group}_truth")


_BEGINNING: Final = (
    required("image_id", pa.string()),
    required("product_id", pa.string()),
    required("split", pa.string()),
    pa.field("title", pa.string()),
    required("caption", pa.string()),
    required("caption_source", pa.string()),
    pa.field("confidence", pa.float64()),
    pa.field("attribute", pa.string()),
    pa.field("object", pa.string()),
    pa.field("pair_confidence", pa.float64()),
)
_END: Final = (
    pa.field("label_attribute", pa.string()),
    pa.field("label_object", pa.string()),
    required("original_prompt", pa.string()),
    required("enhanced_prompt", pa.string()),
)

CONFIDENCE: Final = "confidence"


class ExportedRow(NamedTuple):
    """A photo of the catalog and what is said of it.

    Attributes:
        values: by column, as :class:`ExportColumns` declares them; ``caption`` is None where none
            was made.
        content: digest of the encoded photo, 16 bytes.
        photo: the encoded photo; None where photos are not read.
        off_template: whether the caption cannot be read, so that its words are those of the
            enhanced prompt.
    """

    values: Mapping[str, Any]
    content: bytes
    photo: bytes | None
    off_template: bool


class ExportReader:
    """Reads the rows of an export.

    Memory holds a batch of photos, the truth (20 bytes a true word), and a block of each table.

    Attributes:
        columns: of the rows.
        calibrated: of each group, whether its confidence is a calibrated probability; else it is
            the softmax of scores.
    """

    def __init__(self, paths: ExportPaths, captions: Captions) -> None:
        """Open the tables.

        Args:
            paths: what is read.
            captions: which text is the caption.

        Raises:
            OutputError: a table is not there, or damaged; or the word scorer is of other groups
                than the enhanced prompts.
        """
        self._paths, self._captions = paths, captions
        groups = prompt_groups(paths.enhanced)
        self.columns = ExportColumns(groups)
        self._scorer = _scorer(paths, groups)
        self.calibrated = {
            group: self._scorer.groups[group].calibration is not None for group in groups
        }
        pairs = read_table(paths.pairs, PAIRS_OF_OBJECTS, ["attribute"])
        attributes = pairs.column("attribute").unique().to_pylist()
        alone = objects_alone(attributes)
        self._slots = lru_cache(2**16)(slot_reader(groups, None if alone else attributes))
        self._truth = TruthTable(paths.truth, groups)

    def rows(self, with_photos: bool) -> Iterator[ExportedRow]:
        """Every photo of the catalog, in its order.

        Raises:
            OutputError: a table is damaged, or not of the catalog's images.
        """
        paths = self._paths
        schema = enhanced_prompts_schema(list(self.columns.groups))
        tables = {
            "splits": self._beside(paths.splits, SPLITS, ["image_id", "caption_split"]),
            "original": self._beside(
                paths.original,
                PROMPTS_OF_OBJECTS,
                [name for name in PROMPTS_OF_OBJECTS.names if name != "judged"],
            ),
            "enhanced": self._beside(paths.enhanced, schema, _words_and_scores(self.columns)),
        }
        if self._captions != ENHANCED:
            tables["texts"] = self._beside(
                paths.recommended,
                RECOMMENDED,
                ["image_id", "caption", "recommended", "source", "readable"],
            )
        names = ["image_id", "product_id", "content", "attribute", "object", "title"]
        size = _PHOTOS_AT_ONCE if with_photos else _ROWS_AT_ONCE
        for batch in iterate_batches(
            paths.catalog, [*names, *(["image"] if with_photos else [])], batch_size=size
        ):
            ids = batch.column("image_id")
            yield from self._batch(batch, {name: one.take(ids) for name, one in tables.items()})
        for one in tables.values():
            one.check()

    def _beside(self, path: Path, schema: pa.Schema, columns: Sequence[str]) -> AlignedTable:
        return AlignedTable(
            lambda: iterate_table(path, schema, _ROWS_AT_ONCE, columns),
            path,
            lambda: (
                pa.record_batch([ids], ["image_id"]) for ids in iterate_ids(self._paths.catalog)
            ),
            self._paths.catalog,
        )

    def _batch(
        self, batch: pa.RecordBatch, tables: Mapping[str, pa.Table]
    ) -> Iterator[ExportedRow]:
        ids = batch.column("image_id")
        truth = self._truth.of(ids)
        images = (
            batch.column("image").field("bytes").to_pylist()
            if "image" in batch.schema.names
            else [None] * len(ids)
        )
        labels = batch.drop_columns(
            [name for name in ("image", "content") if name in batch.schema.names]
        ).to_pylist()
        contents = batch.column("content").to_pylist()
        probabilities = self._probabilities(tables["enhanced"])
        scores = [f"{group}_scores" for group in self.columns.groups]
        enhanced = tables["enhanced"].drop_columns(scores).to_pylist()
        original = tables["original"].to_pylist()
        splits = tables["splits"].column("caption_split").to_pylist()
        texts = tables["texts"].to_pylist() if "texts" in tables else [None] * len(ids)
        for row, label in enumerate(labels):
            caption, source, exact = self._caption(enhanced[row], texts[row])
            read = self._slots(exact) if source == CAPTION and exact is not None else None
            said: Slots = enhanced[row] if read is None else read
            confidences = {PAIR: _pair_confidence(said, original[row])} | {
                group: self._word_confidence(group, said[group], probabilities[group][row])
                for group in self.columns.groups
            }
            values = {
                "image_id": label["image_id"],
                "product_id": label["product_id"],
                "split": splits[row],
                "title": label["title"],
                "caption": caption,
                "caption_source": source,
                CONFIDENCE: self._least(said, confidences),
                "attribute": said.get("attribute"),
                "object": said["object"],
                "pair_confidence": confidences[PAIR],
            }
            for group, columns in self.columns.groups.items():
                values[columns.word] = said[group]
                values[columns.confidence] = confidences[group]
                values[columns.truth] = SEPARATOR.join(truth[group][row]) or None
            values |= {
                "label_attribute": label["attribute"],
                "label_object": label["object"],
                "original_prompt": enhanced[row]["original_prompt"],
                "enhanced_prompt": enhanced[row]["enhanced_prompt"],
            }
            off_template = source == CAPTION and exact is not None and read is None
            yield ExportedRow(values, contents[row], images[row], off_template)

    def _caption(
        self, enhanced: Mapping[str, Any], texts: Mapping[str, Any] | None
    ) -> tuple[str | None, str, str | None]:
        """The caption, where it is from, and the exact text that it says."""
        if texts is None:
            prompt = enhanced["enhanced_prompt"]
            return prompt, ENHANCED, prompt
        if self._captions == "finetuned":
            return texts["caption"], CAPTION, texts["caption"]
        return texts[self._captions], texts["source"], texts["recommended"]

    def _probabilities(self, enhanced: pa.Table) -> dict[str, NDArray[np.float32]]:
        """By group, of photos and words."""
        return {
            group: word_probabilities(scorer, self._scores(enhanced, group, len(scorer.words)))
            for group, scorer in self._scorer.groups.items()
        }

    def _scores(self, enhanced: pa.Table, group: str, words: int) -> NDArray[np.float32]:
        column = enhanced.column(f"{group}_scores").combine_chunks()
        lengths = pc.list_value_length(column)
        if not pc.all(pc.equal(lengths, words)).as_py():
            raise MismatchedOutputsError(
                f"{self._paths.enhanced} has scores of other words of {group!r} than "
                f"{self._paths.scorer}, which has {words}: both must be of one run.",
                self._paths.enhanced,
            )
        scores: NDArray[np.float32] = np.array(column.flatten(), np.float32).reshape(-1, words)
        return scores

    def _word_confidence(
        self, group: str, word: str | None, probabilities: NDArray[np.float32]
    ) -> float | None:
        words = self._scorer.groups[group].words
        if word is None or word not in words:
            return None
        return round(float(probabilities[words.index(word)]), _DIGITS)

    def _least(self, said: Slots, confidences: Mapping[str, float | None]) -> float | None:
        """Of what is said, the least confidence; None where one is not known."""
        found = [
            confidence
            for place, confidence in confidences.items()
            if place == PAIR or said[place] is not None
        ]
        known = [confidence for confidence in found if confidence is not None]
        return min(known) if len(known) == len(found) else None


def _scorer(paths: ExportPaths, groups: Sequence[str]) -> WordScorer:
    scorer = load_word_scorer(paths.scorer)
    if tuple(scorer.groups) != tuple(groups):
        raise MismatchedOutputsError(
            f"{paths.scorer} scores the groups {', '.join(scorer.groups)}, and {paths.enhanced} "
            f"has {', '.join(groups)}: both must be of one run.",
            paths.enhanced,
        )
    return scorer


def _words_and_scores(columns: ExportColumns) -> list[str]:
    return [
        *("image_id", "attribute", "object", "original_prompt", "enhanced_prompt"),
        *columns.groups,
        *(f"{group}_scores" for group in columns.groups),
    ]


def _pair_confidence(said: Slots, original: Mapping[str, Any]) -> float | None:
    """Troika's probability of the pair that is said; None where it is not among its best."""
    pair = said.get("attribute"), said["object"]
    found = original["probability"] if pair == (original["attribute"], original["object"]) else None
    if found is None:
        best = zip(
            original["top_attributes"] or [],
            original["top_objects"] or [],
            original["top_probabilities"] or [],
            strict=True,
        )
        found = next((three[2] for three in best if three[:2] == pair), None)
    return None if found is None else round(float(found), _DIGITS)
