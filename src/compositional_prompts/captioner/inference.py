"""Captions of many images: in shards that a killed run need not write again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from compositional_prompts.captioner.batch_size import automatic_batch_size
from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.captioner.decoding.caption_generation import (
    caption_images,
    generate_tokens,
)
from compositional_prompts.captioner.decoding.grammar_file import GRAMMAR_FILE, read_grammar
from compositional_prompts.captioner.decoding.token_automaton import TokenAutomaton, compile_grammar
from compositional_prompts.captioner.features.feature_store import ImageInputs
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.parameters import Infer
from compositional_prompts.catalog.splitting.split_images import images_of_splits
from compositional_prompts.catalog.splitting.split_tables import JUDGED_SPLIT, SCORED_SPLIT
from compositional_prompts.compute.progress import progress
from compositional_prompts.files.outputs import MissingOutputError
from compositional_prompts.files.tables import read_table, write_table

logger = logging.getLogger(__name__)

LARGEST_BATCH = 1024
"""The first batch that ``auto`` tries on a GPU."""


@dataclass(frozen=True)
class ImagesToCaption:
    """Image ids, sorted: all to be captioned, and those that are captioned freely too."""

    captioned: Sequence[str]
    free_too: Sequence[str]


def images_to_caption(splits: Path, params: Infer, seed: int, *, trained: bool) -> ImagesToCaption:
    """The images that a captioner describes: ``infer.images`` of each split at most.

    The untrained one is there to be scored beside the fine-tuned one, and writes freely only.

    Args:
        splits: ``splits.parquet``.
        params: the section ``infer``.
        seed: of the choice of images.
        trained: whether it has an adapter.
    """
    names = params.captioned_splits if trained else (SCORED_SPLIT,)
    captioned = images_of_splits(splits, names, params.images, seed)
    if not (trained and params.grammar):
        return ImagesToCaption(captioned, ())
    measured = (JUDGED_SPLIT, SCORED_SPLIT)
    return ImagesToCaption(captioned, images_of_splits(splits, measured, params.images, seed))


def grammar_of(captioner: Captioner, adapter: Path) -> TokenAutomaton:
    """The grammar that was learnt with the adapter, for the captioner's tokenizer.

    Raises:
        MissingOutputError: the adapter has none.
        ValueError: it cannot be read, or written token by token.
    """
    segments = read_grammar(adapter)
    if segments is None:
        raise MissingOutputError(
            f"{adapter / GRAMMAR_FILE} is missing: without it, set infer.grammar to false "
            "(--no-grammar).",
            adapter / GRAMMAR_FILE,
        )
    return compile_grammar(segments, captioner.tokenizer, captioner.end_of_caption)


def merge_adapter(
    captioner: Captioner, adapter: Path | None, params: Infer
) -> TokenAutomaton | None:
    """Merge the adapter, if there is one, and give the grammar that ``infer.grammar`` asks for.

    The untrained model does not know the wording, so it writes freely all the same.

    Raises:
        As :func:`load_adapter` and :func:`grammar_of`.
    """
    if adapter is None:
        return None
    # Here, since the untrained model does without PEFT, whose import takes half a second.
    from compositional_prompts.captioner.model.lora import load_adapter

    load_adapter(captioner, adapter)
    return grammar_of(captioner, adapter) if params.grammar else None


def caption_split(
    captioner: Captioner,
    inputs: ImageInputs,
    image_ids: Sequence[str],
    params: Infer,
    *,
    seed: int,
    grammar: TokenAutomaton | None,
    scratch: Path,
    free_too: Collection[str] = (),
) -> pa.Table:
    """Caption the given images; shards that ``scratch`` holds already are not captioned again.

    Args:
        captioner: the model, an adapter merged into it.
        inputs: where the images' features or pixels are read from.
        image_ids: the images.
        params: how to caption them.
        seed: of sampling.
        grammar: the captions there may be.
        scratch: folder of finished shards, of this run alone.
        free_too: of these images, captions without the grammar beside those by it.

    Returns:
        A table of the schema ``CAPTIONS``, sorted by image_id.
    """
    positions = inputs.positions(image_ids)
    # Read in the order in which they lie there, which costs least.
    ordered = [image_ids[place] for place in positions.argsort(kind="stable").tolist()]
    also = frozenset(free_too) if grammar is not None else frozenset()
    # What is searched for without the grammar takes more memory, or less: both must fit.
    searches = {grammar, None} if also else {grammar}
    batch_size = (
        min(fitting_batch(captioner, inputs, ordered, params, search) for search in searches)
        if params.batch_size == "auto"
        else params.batch_size
    )

    def caption(shard: Sequence[str], search: TokenAutomaton | None) -> list[str]:
        return caption_images(
            captioner,
            inputs,
            shard,
            batch_size=batch_size,
            num_beams=params.num_beams,
            max_new_tokens=params.max_new_tokens,
            length_penalty=params.length_penalty,
            sampling=params.sampling,
            seed=seed,
            grammar=search,
        )

    def caption_shard(shard: Sequence[str]) -> pa.Table:
        judged = [image_id for image_id in shard if image_id in also]
        free = dict(zip(judged, caption(judged, None), strict=True))
        columns = [shard, caption(shard, grammar), [free.get(image_id) for image_id in shard]]
        return pa.table(columns, schema=CAPTIONS)

    return caption_in_shards(ordered, caption_shard, scratch, params.shard_images)


def fitting_batch(
    captioner: Captioner,
    inputs: ImageInputs,
    image_ids: Sequence[str],
    params: Infer,
    grammar: TokenAutomaton | None,
) -> int:
    """The largest batch that fits into memory, tried with captions as long as they may be."""
    positions = inputs.positions(image_ids[:LARGEST_BATCH])

    def run(images: int) -> None:
        generate_tokens(
            captioner,
            inputs.read(positions[:images]),
            num_beams=params.num_beams,
            max_new_tokens=params.max_new_tokens,
            sampling=params.sampling,
            seeds=range(images),
            grammar=grammar,
            graphs=True,
            ending=False,
        )

    return automatic_batch_size(run, captioner.device, upper=len(positions))


def caption_in_shards(
    image_ids: Sequence[str],
    caption: Callable[[Sequence[str]], pa.Table],
    folder: Path,
    shard_images: int,
) -> pa.Table:
    """Caption images shard by shard, each of which appears in ``folder`` whole or not at all.

    Args:
        image_ids: the images, in the order in which they are captioned.
        caption: captions of some of them, in their order, as ``CAPTIONS``.
        folder: of the shards; those that are there are read, not captioned again.
        shard_images: images a shard.

    Returns:
        A table of the schema ``CAPTIONS``, sorted by image_id.

    Raises:
        ValueError: a shard in ``folder`` holds other images: it is another run's.
    """
    logger.info("images to caption: %d", len(image_ids))
    tables = [CAPTIONS.empty_table()]
    starts = range(0, len(image_ids), shard_images)
    for number, start in enumerate(progress(starts, "shards", announced=True)):
        ids = list(image_ids[start : start + shard_images])
        path = folder / f"captions-{number:05d}.parquet"
        if path.is_file():
            logger.info("shard %d of %d is there already", number + 1, len(starts))
        else:
            write_table(caption(ids), path, CAPTIONS)
        table = read_table(path, CAPTIONS)
        if table.column("image_id").to_pylist() != ids:
            raise ValueError(f"{path} holds other images than this run's: remove {folder}.")
        tables.append(table)
    return pa.concat_tables(tables).sort_by("image_id").combine_chunks()
