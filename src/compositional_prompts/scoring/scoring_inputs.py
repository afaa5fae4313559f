"""The captions to be scored, joined with their references and with what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.outputs import MismatchedOutputsError, require_outputs
from compositional_prompts.files.tables import read_table

CAPTIONERS = ("base", "finetuned")
"""The untrained and the fine-tuned BLIP-2; their captions are in ``{captioner}.parquet``."""
Column = Sequence[str | None]


@dataclass(frozen=True)
class ScoringInputs:
    """Columns of ``n`` images, all in the order of ``image_ids``.

    Attributes:
        image_ids: string ``[n]``, without repeats.
        captions: by captioner.
        references: the enhanced prompts.
        enhanced: by place (attribute, object, then the groups), the enhanced prompt's word.
        truth: by place, the true words: the label, or a group's truth; none where not known.
    """

    image_ids: pa.StringArray
    captions: Mapping[str, Sequence[str]]
    references: Sequence[str]
    enhanced: Mapping[str, Column]
    truth: Mapping[str, Sequence[Sequence[str]]]

    @property
    def groups(self) -> tuple[str, ...]:
        """The attribute groups, in the order of the prompt."""
        return tuple(self.enhanced)[2:]


def read_inputs(captions: Path, prompts: Path, catalog: Path, truth: Path) -> ScoringInputs:
    """Read and join what is scored.

    Args:
        captions: folder with a table a captioner, both of the same images in any order.
        prompts: ``enhanced.parquet``, at least of these images.
        catalog: folder of the catalog's shards, at least of these images.
        truth: ``truth.parquet``.

    Raises:
        FileNotFoundError: an input is not there.
        SchemaError: an input is not as declared.
        ValueError: there are no captions, an image has two captions or prompts, or an image is not
            in all inputs, naming the first.
    """
    tables = {name: read_table(captions / f"{name}.parquet", CAPTIONS) for name in CAPTIONERS}
    first = captions / f"{CAPTIONERS[0]}.parquet"
    image_ids = _unique_ids(tables[CAPTIONERS[0]], first)
    if not len(image_ids):
        raise ValueError(f"{first} holds no captions: run infer again.")
    texts = {}
    for name, table in tables.items():
        path = captions / f"{name}.parquet"
        if table.num_rows != len(image_ids):
            raise ValueError(
                f"{path} has {table.num_rows} captions and {first} {len(image_ids)}: "
                "they must be of the same images; run infer again."
            )
        texts[name] = _aligned(table, image_ids, path).column("caption").to_pylist()

    groups = _prompt_groups(prompts)
    places = ("attribute", "object", *groups)
    wanted = read_table(
        prompts, enhanced_prompts_schema(groups), ["image_id", "enhanced_prompt", *places]
    )
    wanted = _aligned(wanted, image_ids, prompts)
    pair = places[:2]
    labels = _aligned(read_labels(catalog, ["image_id", *pair]), image_ids, catalog)
    labelled = {
        name: [() if label is None else (label,) for label in labels.column(name).to_pylist()]
        for name in pair
    }
    return ScoringInputs(
        image_ids=image_ids,
        captions=texts,
        references=wanted.column("enhanced_prompt").to_pylist(),
        enhanced={name: wanted.column(name).to_pylist() for name in places},
        truth={**labelled, **read_truth(truth, image_ids, groups)},
    )


def _prompt_groups(prompts: Path) -> tuple[str, ...]:
    require_outputs(prompts)
    names = pq.read_schema(prompts).names
    return tuple(name for name in names if f"{name}_best" in names)


def _unique_ids(table: pa.Table, source: Path) -> pa.StringArray:
    ids = table.column("image_id").combine_chunks()
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise ValueError(f"{source}: image {twice[0]['values']} stands in more than one row.")
    return ids


def _aligned(table: pa.Table, image_ids: pa.StringArray, source: Path) -> pa.Table:
    rows = pc.index_in(image_ids, value_set=_unique_ids(table, source))
    if rows.null_count:
        raise MismatchedOutputsError(
            f"image {image_ids.filter(rows.is_null())[0]} has a caption but is not in {source}.",
            source,
        )
    return table.take(rows)
