"""Which images and captions the page shows, and what stands beside each image.

Choices follow the seed and spread over the predicted objects. Tables are joined on ``image_id``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.tables import iterate_table, parquet_schema, require_whole_table
from compositional_prompts.prompt.pair import NO_ATTRIBUTE, pair_name
from compositional_prompts.reporting.content.differences import Span, compare, plain
from compositional_prompts.reporting.content.photo_choice import choose
from compositional_prompts.scoring.score_table import SCORES

ENHANCED = "Enhanced prompt (by machine)"
"""What Troika and CLIP wrote is called on the page; ground truth are labels and truth alone."""

TITLE = "Title (by people)"
"""What captions are learnt from and held against with ``finetune.target: title``."""

_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class CardLine:
    """A named text under an image, in spans."""

    name: str
    spans: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Card:
    """An image of a gallery; ``label`` is its true pair, or None where it has no label."""

    image_id: str
    label: str | None
    lines: Sequence[CardLine]
    note: str | None = None

    @property
    def alt(self) -> str:
        """A text in place of the image."""
        if self.label is None:
            return f"Product photo {self.image_id}, without a label"
        return f"Product photo labelled {self.label.replace('_', ' ').replace('.', ' ')}"


@dataclass(frozen=True)
class Galleries:
    """The galleries by what they show; any of them may be empty."""

    data_set: Sequence[Card]
    contact_sheet: Sequence[str]
    captions: Sequence[Card]
    correct: Sequence[Card]
    wrong: Sequence[Card]
    steps: Sequence[Card]

    def uses(self) -> dict[str, int]:
        """How often the page shows each image."""
        galleries = (self.data_set, self.captions, self.correct, self.wrong, self.steps)
        return dict(Counter(card.image_id for gallery in galleries for card in gallery))


@dataclass(frozen=True, slots=True)
class Tables:
    """Paths of the tables that galleries are drawn from."""

    splits: Path
    prompts: Path
    captions: Path
    scores: Path


def attribute_groups(columns: Sequence[str]) -> list[str]:
    """The attribute groups of an enhanced-prompts table: every ``X`` beside an ``X_best``."""
    return [name for name in columns if f"{name}_best" in columns]


def build_galleries(
    tables: Tables, count: int, contact_images: int, seed: int, reference: str = ENHANCED
) -> Galleries:
    """Choose ``count`` images a gallery (twice as many of the data set) and their texts.

    Captions stand beside what they are scored against, which is called ``reference``.

    Raises:
        MissingOutputError: a table is missing.
        DamagedOutputError: a table is damaged.
        SchemaError: a table's columns are not the declared ones.
    """
    _check_tables(tables)
    prompts = pl.scan_parquet(tables.prompts)
    splits = pl.scan_parquet(tables.splits).select("image_id", "attribute", "object")
    labelled = splits.filter(pl.col("object").is_not_null())
    fine, base = (pl.scan_parquet(_captions(tables, name)) for name in ("finetuned", "base"))
    scores = pl.scan_parquet(tables.scores).filter(pl.col("captioner") == "finetuned")
    pools = {
        "captions": fine.join(base, on="image_id", how="semi").join(
            scores, on="image_id", how="semi"
        )
        if reference == TITLE
        else fine.join(base, on="image_id", how="semi"),
        "correct": scores.filter(pl.col("clip_preference") == "caption"),
        "wrong": scores.filter(pl.col("clip_preference").is_in(["enhanced", "title"])),
        "steps": fine.join(labelled, on="image_id", how="semi"),
    }
    chosen = {
        name: choose(_with_objects(pool, prompts), count, f"{seed}/{name}")
        for name, pool in pools.items()
    }
    sample = choose(_labels(tables.splits), max(2 * count, contact_images), f"{seed}/data_set")

    wanted = sorted({*sample, *itertools.chain(*chosen.values())})
    labels = {
        key: pair_name(row["attribute"] or NO_ATTRIBUTE, row["object"])
        for key, row in _rows(labelled, wanted).items()
    }
    prompt = _rows(prompts.select("image_id", "attribute", "object", "enhanced_prompt"), wanted)
    finetuned, untrained = _rows(fine, wanted), _rows(base, wanted)
    scored = _rows(scores, wanted)
    return Galleries(
        data_set=[
            Card(key, labels.get(key), [CardLine("Label", plain(labels.get(key, "no label")))])
            for key in sample[: 2 * count]
        ],
        contact_sheet=sample[:contact_images],
        captions=[
            _compared(
                key,
                labels.get(key),
                scored[key]["reference"] if reference == TITLE else prompt[key]["enhanced_prompt"],
                {"Untrained": untrained[key]["caption"], "Fine-tuned": finetuned[key]["caption"]},
                reference,
            )
            for key in chosen["captions"]
        ],
        correct=[_preferred(scored[key], labels.get(key), reference) for key in chosen["correct"]],
        wrong=[_preferred(scored[key], labels.get(key), reference) for key in chosen["wrong"]],
        steps=[
            _stepped(key, labels[key], prompt[key], finetuned[key]["caption"])
            for key in chosen["steps"]
        ],
    )


def _captions(tables: Tables, captioner: str) -> Path:
    return tables.captions / f"{captioner}.parquet"


def _check_tables(tables: Tables) -> None:
    expected: dict[Path, pa.Schema | None] = {
        tables.splits: SPLITS,
        tables.prompts: None,
        _captions(tables, "base"): CAPTIONS,
        _captions(tables, "finetuned"): CAPTIONS,
        tables.scores: SCORES,
    }
    require_outputs(*expected)
    for path, schema in expected.items():
        groups = attribute_groups(parquet_schema(path).names)
        # Polars knows no checksums, and panics at some damage.
        require_whole_table(path, schema or enhanced_prompts_schema(groups))


def _labels(splits: Path) -> Iterator[tuple[str, str]]:
    """``(image_id, object)`` of every image, in batches; those without a label are one group."""
    for batch in iterate_table(splits, SPLITS, _BATCH_ROWS, ["image_id", "object"]):
        ids, objects = (batch.column(name).to_pylist() for name in ("image_id", "object"))
        yield from zip(ids, (name or "" for name in objects), strict=True)


def _with_objects(pool: pl.LazyFrame, prompts: pl.LazyFrame) -> Iterator[tuple[str, str]]:
    """``(image_id, predicted object)`` of the images in ``pool``."""
    objects = prompts.select("image_id", "object")
    return objects.join(pool, on="image_id", how="semi").collect(engine="streaming").iter_rows()


def _rows(frame: pl.LazyFrame, image_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of these images, by id."""
    table = frame.filter(pl.col("image_id").is_in(list(image_ids))).collect(engine="streaming")
    return {row["image_id"]: row for row in table.iter_rows(named=True)}


def _compared(
    image_id: str, label: str | None, reference: str, captions: Mapping[str, str], called: str
) -> Card:
    lines = [CardLine(name, compare(text, reference)) for name, text in captions.items()]
    return Card(image_id, label, [*lines, CardLine(called, plain(reference))])


def _preferred(row: Mapping[str, Any], label: str | None, called: str) -> Card:
    """A generated caption beside its reference, the words marked in which each departs."""
    caption, reference = row["caption"], row["reference"]
    return Card(
        row["image_id"],
        label,
        [
            CardLine("Generated caption", compare(caption, reference)),
            CardLine(called, compare(reference, caption)),
        ],
        note=f"CLIP cosine: caption {row['clip_caption']:.4f}, "
        f"{'title' if called == TITLE else 'enhanced prompt'} {row['clip_reference']:.4f}",
    )


def _stepped(image_id: str, label: str, prompt: Mapping[str, Any], caption: str) -> Card:
    pair = pair_name(prompt["attribute"] or NO_ATTRIBUTE, prompt["object"])
    enhanced = prompt["enhanced_prompt"]
    return Card(
        image_id,
        label,
        [
            CardLine("Ground truth: the label", plain(label)),
            CardLine("Troika", compare(pair, label)),
            CardLine(ENHANCED, plain(enhanced)),
            CardLine("BLIP-2", compare(caption, enhanced)),
        ],
    )
