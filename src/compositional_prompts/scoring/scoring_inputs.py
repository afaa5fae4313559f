"""The captions to be scored, joined with their references and with what is true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.captioner.parameters import Target
from compositional_prompts.catalog.image_join import IDS_AT_ONCE, rows_of_images
from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.catalog.titles import read_titles
from compositional_prompts.catalog.truth import read_truth
from compositional_prompts.enhancement.enhanced_prompts import enhanced_prompts_schema
from compositional_prompts.files.outputs import DamagedOutputError, require_outputs
from compositional_prompts.files.tables import (
    is_absent,
    iterate_table,
    parquet_schema,
    read_table,
    shared_texts,
)
from compositional_prompts.results.bootstrap import product_codes

UNTRAINED, FREE, FINETUNED = "base", "finetuned_free", "finetuned"
"""The untrained BLIP-2; the fine-tuned one without the grammar, where ``infer.grammar`` is true;
and the fine-tuned one as ``infer`` has it. Captions of the first are in ``base.parquet``, of the
others in ``finetuned.parquet``."""
LABEL_PLACES: Final = ("attribute", "object")
"""The places of a text that a label tells of; where labels are objects alone, the second."""
Column = Sequence[str | None]


@dataclass(frozen=True)
class ScoringInputs:
    """Columns of ``n`` images, all in the order of ``image_ids``.

    Attributes:
        image_ids: string ``[n]``, without repeats.
        products: number of the product of every image, int64 ``[n]``.
        source: the table that names them, for errors.
        captions: by captioner.
        references: the enhanced prompts, or the titles.
        enhanced: by place (attribute, object, then the groups), the enhanced prompt's word. Where
            labels are objects alone, attribute is no place.
        truth: by place, the true words: the label, or a group's truth; none where not known.
        target: what the captioner learnt, and the references are.
        untitled: images that are left out, since they have no title to be scored against.
    """

    image_ids: pa.StringArray
    products: NDArray[np.int64]
    source: Path
    captions: Mapping[str, Sequence[str]]
    references: Sequence[str]
    enhanced: Mapping[str, Column]
    truth: Mapping[str, Sequence[Sequence[str]]]
    target: Target = "enhanced"
    untitled: int = 0

    @property
    def groups(self) -> tuple[str, ...]:
        """The attribute groups, in the order of the prompt."""
        return tuple(name for name in self.enhanced if name not in LABEL_PLACES)


def read_inputs(
    captions: Path, prompts: Path, catalog: Path, truth: Path, target: Target = "enhanced"
) -> ScoringInputs:
    """Read and join what is scored; tables of more images than that are streamed.

    Args:
        captions: folder with a table a captioner: ``base.parquet`` of the images that are scored,
            ``finetuned.parquet`` at least of these, in any order.
        prompts: ``enhanced.parquet``, at least of these images.
        catalog: folder of the catalog's shards, at least of these images.
        truth: ``truth.parquet``.
        target: what captions are held against; of titles, images without one are left out.

    Raises:
        ValueError: the target is title, and no image to be scored has one.
        FileNotFoundError: an input is not there.
        SchemaError: an input is not as declared.
        ImageJoinError: an image has two captions or prompts, or is not in all inputs.
        DamagedOutputError: there are no captions.
    """
    source, trained = captions / f"{UNTRAINED}.parquet", captions / f"{FINETUNED}.parquet"
    untrained = read_table(source, CAPTIONS)
    image_ids = untrained.column("image_id").combine_chunks()
    if not len(image_ids):
        raise DamagedOutputError(f"{source} holds no captions.", source)

    untitled = 0
    titles = read_titles(catalog) if target == "title" else {}
    if target == "title":
        kept = image_ids.filter(pa.array([one in titles for one in image_ids.to_pylist()]))
        untitled, image_ids = len(image_ids) - len(kept), kept
        if not len(image_ids):
            raise ValueError(
                f"finetune.target is title, and none of the {untitled} images to be scored has "
                "one: bring titles with the data set, or set it to enhanced."
            )

    def aligned(batches: Iterable[pa.RecordBatch], path: Path) -> pa.Table:
        return rows_of_images(image_ids, batches, table=path, wanted_by=source)

    untrained = aligned(untrained.to_batches(), source)
    finetuned = aligned(iterate_table(trained, CAPTIONS, IDS_AT_ONCE), trained)
    texts = {UNTRAINED: shared_texts(untrained.column("caption"))}
    free = finetuned.column("free_caption")
    if not free.null_count:
        texts[FREE] = shared_texts(free)
    texts[FINETUNED] = shared_texts(finetuned.column("caption"))
    groups = prompt_groups(prompts)
    named = label_places(prompts)
    places = (*named, *groups)
    columns = ["image_id", "enhanced_prompt", *places]
    schema = enhanced_prompts_schema(groups)
    wanted = aligned(iterate_table(prompts, schema, IDS_AT_ONCE, columns), prompts)
    names = ["image_id", "product_id", *named]
    labels = aligned(iterate_batches(catalog, names, batch_size=IDS_AT_ONCE), catalog)
    labelled = {name: _true_labels(labels.column(name)) for name in named}
    return ScoringInputs(
        image_ids=image_ids,
        products=product_codes(labels.column("product_id")),
        source=source,
        captions=texts,
        references=[titles[image_id] for image_id in image_ids.to_pylist()]
        if target == "title"
        else shared_texts(wanted.column("enhanced_prompt")),
        target=target,
        untitled=untitled,
        enhanced={name: shared_texts(wanted.column(name)) for name in places},
        truth={**labelled, **read_truth(truth, image_ids, groups)},
    )


def _true_labels(column: pa.ChunkedArray) -> list[tuple[str, ...]]:
    """The true words that labels are, equal ones one object."""
    labels = shared_texts(column)
    words = {label: () if label is None else (label,) for label in dict.fromkeys(labels)}
    return [words[label] for label in labels]


def label_places(prompts: Path) -> tuple[str, ...]:
    """The places of ``enhanced.parquet`` that labels tell of: all, or object alone."""
    return LABEL_PLACES[1:] if is_absent(prompts, LABEL_PLACES[0]) else LABEL_PLACES


def prompt_groups(prompts: Path) -> tuple[str, ...]:
    """The attribute groups of ``enhanced.parquet``, in the order of the prompt."""
    require_outputs(prompts)
    names = parquet_schema(prompts).names
    return tuple(name for name in names if f"{name}_best" in names)
