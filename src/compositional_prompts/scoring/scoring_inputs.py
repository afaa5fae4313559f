"""The captions to be scored, joined with their references and with what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.catalog.image_join import image_rows
from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.outputs import DamagedOutputError, require_outputs
from compositional_prompts.files.tables import read_table

CAPTIONERS = ("base", "finetuned")
"""The untrained and the fine-tuned BLIP-2; their captions are in ``{captioner}.parquet``."""
Column = Sequence[str | None]


@dataclass(frozen=True)
class ScoringInputs:
    """Columns of ``n`` images, all in the order of ``image_ids``.

    Attributes:
        image_ids: string ``[n]``, without repeats.
        source: the table that names them, for errors.
        captions: by captioner.
        references: the enhanced prompts.
        enhanced: by place (attribute, object, then the groups), the enhanced prompt's word.
        truth: by place, the true words: the label, or a group's truth; none where not known.
    """

    image_ids: pa.StringArray
    source: Path
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
        ImageJoinError: an image has two captions or prompts, or is not in all inputs.
        DamagedOutputError: there are no captions.
    """
    paths = {name: captions / f"{name}.parquet" for name in CAPTIONERS}
    tables = {name: read_table(path, CAPTIONS) for name, path in paths.items()}
    source = paths[CAPTIONERS[0]]
    image_ids = tables[CAPTIONERS[0]].column("image_id").combine_chunks()
    if not len(image_ids):
        raise DamagedOutputError(f"{source} holds no captions.", source)

    def aligned(table: pa.Table, path: Path, *, exact: bool = False) -> pa.Table:
        ids = table.column("image_id").chunks
        return table.take(image_rows(image_ids, ids, table=path, wanted_by=source, exact=exact))

    texts = {
        name: aligned(table, paths[name], exact=True).column("caption").to_pylist()
        for name, table in tables.items()
    }
    groups = _prompt_groups(prompts)
    places = ("attribute", "object", *groups)
    wanted = read_table(
        prompts, enhanced_prompts_schema(groups), ["image_id", "enhanced_prompt", *places]
    )
    wanted = aligned(wanted, prompts)
    pair = places[:2]
    labels = aligned(read_labels(catalog, ["image_id", *pair]), catalog)
    labelled = {
        name: [() if label is None else (label,) for label in labels.column(name).to_pylist()]
        for name in pair
    }
    return ScoringInputs(
        image_ids=image_ids,
        source=source,
        captions=texts,
        references=wanted.column("enhanced_prompt").to_pylist(),
        enhanced={name: wanted.column(name).to_pylist() for name in places},
        truth={**labelled, **read_truth(truth, image_ids, groups)},
    )


def _prompt_groups(prompts: Path) -> tuple[str, ...]:
    require_outputs(prompts)
    names = pq.read_schema(prompts).names
    return tuple(name for name in names if f"{name}_best" in names)
