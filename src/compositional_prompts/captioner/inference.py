"""Captions of many images: computed of what is new, taken from the row store of all else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from compositional_prompts.captioner.batch_size import automatic_batch_size
from compositional_prompts.captioner.caption_rows import (
    CaptionInput,
    Captions,
    KnownFeatures,
)
from compositional_prompts.captioner.captions_table import CAPTIONS
from compositional_prompts.captioner.decoding.caption_generation import read_tokens
from compositional_prompts.captioner.features.feature_shards import contents_digest
from compositional_prompts.captioner.features.feature_store import (
    METADATA_FILE,
    FeatureStore,
    read_metadata,
)
from compositional_prompts.captioner.features.frozen_features import FIELD, feature_rows
from compositional_prompts.captioner.model.blip2_model import load_processor
from compositional_prompts.captioner.parameters import Infer
from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.image_join import image_rows
from compositional_prompts.catalog.reading import iterate_ids
from compositional_prompts.catalog.splitting.split_images import images_of_splits
from compositional_prompts.catalog.splitting.split_tables import JUDGED_SPLIT, SCORED_SPLIT
from compositional_prompts.compute.precision import ResolvedPrecision
from compositional_prompts.compute.rows.completed_rows import (
    ROWS_AT_ONCE,
    CompletedRows,
    complete_rows,
)
from compositional_prompts.compute.rows.computation import Item, key_array, row_key
from compositional_prompts.files.outputs import DamagedOutputError, MismatchedOutputsError
from compositional_prompts.pipeline.section import Base

log = logging.getLogger(__name__)

LARGEST_BATCH = 1024
"""The first batch that ``auto`` tries on a GPU."""

FEATURES_AT_ONCE = 256
"""Images whose features are read together."""


@dataclass(frozen=True)
class ImagesToCaption:
    """Image ids, sorted: all to be captioned, and those that are captioned freely too."""

    captioned: pa.StringArray
    free_too: pa.StringArray


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
        return ImagesToCaption(captioned, captioned[:0])
    measured = (JUDGED_SPLIT, SCORED_SPLIT)
    return ImagesToCaption(captioned, images_of_splits(splits, measured, params.images, seed))


class CaptionInputs:
    """What captions are computed of: cached features, or photos where ``data/features/`` has none.

    A position is a row of the catalog; features lie in its order.
    """

    def __init__(self, features: Path, catalog: Path) -> None:
        """Open them.

        Raises:
            MissingOutputError: the features or the catalog are not there.
            DamagedOutputError: features.json does not say what made them.
            MismatchedOutputsError: they are of another catalog.
        """
        metadata = read_metadata(features)
        self._catalog = catalog
        self._photos = CatalogPhotos(catalog)
        self._store: FeatureStore | None = None
        self.known: KnownFeatures | None = None
        if not metadata["cache"]:
            return
        self._store = FeatureStore(features)
        path = features / METADATA_FILE
        if not {"computation", "contents"} <= metadata.keys():
            raise DamagedOutputError(
                f"{path} does not say what made the features, nor of which photos.", features
            )
        if metadata["contents"] != contents_digest(self._photos.keys):
            raise MismatchedOutputsError(
                f"The features in {features} are of other photos than those in {catalog}.",
                features,
            )
        self.known = KnownFeatures(
            *(metadata[name] for name in ("computation", "dtype", "queries", "width"))
        )

    def positions(self, image_ids: pa.StringArray) -> NDArray[np.int64]:
        """Where the given images are, int64 ``[n]``. Reads all names: ask for many at once.

        Raises:
            ImageJoinError: an image is not in the catalog.
        """
        return image_rows(image_ids, iterate_ids(self._catalog), table=self._catalog)

    def contents(self, positions: NDArray[np.int64]) -> NDArray[np.void]:
        """The content digests of images, ``V16 [n]``."""
        return self._photos.keys[positions]

    def read(self, positions: NDArray[np.int64]) -> Iterator[bytes | NDArray[Any]]:
        """The photos or features at ascending positions, as :class:`CaptionInput` has them.

        All that are wanted in one call: it reads the catalog from its beginning.
        """
        if self._store is None:
            for item in self._photos.items(positions):
                yield item.value
            return
        for start in range(0, len(positions), FEATURES_AT_ONCE):
            yield from feature_rows(self._store.read(positions[start : start + FEATURES_AT_ONCE]))[
                FIELD
            ]


class ImagesToWriteOf:
    """The source of captions: some images, in the order in which they lie in the catalog."""

    def __init__(self, inputs: CaptionInputs, image_ids: pa.StringArray, *, sampled: bool) -> None:
        """Look them up.

        Args:
            inputs: what captions are computed of.
            image_ids: of the images.
            sampled: whether a caption depends on the image_id too.

        Raises:
            ImageJoinError: an image is not in the catalog.
        """
        self._inputs = inputs
        positions = inputs.positions(image_ids)
        order = np.argsort(positions, kind="stable")
        self._positions = positions[order]
        self._ids = image_ids.take(pa.array(order))
        self.places = np.empty_like(order)
        """Where each of ``image_ids`` is in the source, int64 ``[n]``."""
        self.places[order] = np.arange(len(order))
        contents = inputs.contents(self._positions)
        self._keys = (
            key_array(
                [
                    row_key(content, image_id.as_py())
                    for content, image_id in zip(contents.tolist(), self._ids, strict=True)
                ]
            )
            if sampled
            else contents
        )

    @property
    def keys(self) -> NDArray[np.void]:
        return self._keys

    def items(self, positions: NDArray[np.int64]) -> Iterator[Item]:
        images = self._inputs.read(self._positions[positions])
        for start in range(0, len(positions), ROWS_AT_ONCE):
            some = positions[start : start + ROWS_AT_ONCE]
            ids = self._ids.take(pa.array(some)).to_pylist()
            inputs = map(CaptionInput, ids, islice(images, len(some)))
            yield from map(Item, self._keys[some].tolist(), ids, inputs)


def captions_wanted(
    blip2: Path,
    adapter: Path | None,
    features: KnownFeatures | None,
    params: Infer,
    base: Base,
    device: torch.device,
    precision: ResolvedPrecision,
) -> Captions:
    """The computation that ``infer`` asks for, with ``batch_size`` yet to be found where it is
    ``auto``.

    The untrained model does not know the grammar's wording, so it writes freely all the same.

    Args:
        blip2: the base model's folder.
        adapter: the adapter's; None for the untrained model.
        features: what captions are computed of; None: of photos.
        params: the section ``infer``.
        base: the section ``base``.
        device: where to compute.
        precision: what to compute in.
    """
    return Captions(
        blip2=blip2,
        adapter=adapter,
        features=features,
        device=device.type,
        precision=precision,
        grammar=params.grammar and adapter is not None,
        num_beams=params.num_beams,
        length_penalty=params.length_penalty,
        max_new_tokens=params.max_new_tokens,
        sampling=params.sampling,
        seed=base.seed,
        batch_size=LARGEST_BATCH if params.batch_size == "auto" else params.batch_size,
    )


def _fitting(computation: Captions, params: Infer, device: torch.device) -> Captions:
    if params.batch_size != "auto":
        return computation
    size = automatic_batch_size(computation, computation.start, device, upper=LARGEST_BATCH)
    return replace(computation, batch_size=size)


class EmptyCaptionsError(ValueError):
    """A captioner writes nothing at all."""


def _require_text(captions: pa.ChunkedArray, how: Captions) -> None:
    """Raise :class:`EmptyCaptionsError` where there are captions and all of them are empty; of the
    untrained model that is a warning, since it is there only to be compared with.
    """
    if not len(captions) or pc.any(pc.not_equal(captions, "")).as_py():
        return
    written = "by its grammar" if how.grammar else "freely"
    if how.adapter is None:
        log.warning("all %d captions that the untrained model writes are empty", len(captions))
        return
    raise EmptyCaptionsError(
        f"All {len(captions)} captions that the model with the adapter {how.adapter} writes "
        f"{written} are empty, expected texts: it has learnt nothing, or its weights are damaged. "
        "See val_token_accuracy in metrics/finetune.json, and lower finetune.learning_rate."
    )


class CaptionTable(NamedTuple):
    """Captions, of the schema ``CAPTIONS``, how many were computed now, and how many of those that
    follow no grammar did not end before ``infer.max_new_tokens``, and are cut there.
    """

    table: pa.Table
    computed: int
    cut: int


def caption_split(
    computation: Captions,
    inputs: CaptionInputs,
    images: ImagesToCaption,
    params: Infer,
    base: Base,
) -> CaptionTable:
    """Caption the given images. Memory is some 300 bytes an image: names and captions, each once.

    Args:
        computation: how.
        inputs: what captions are computed of.
        images: which; of some, captions without the grammar stand beside those by it.
        params: the section ``infer``.
        base: where the row store is, and the engine.

    Returns:
        Its table is sorted by image_id.

    Raises:
        ImageJoinError: an image is not in the catalog.
        MissingOutputError: the adapter has no grammar.
        ValueError: the language model has too few positions, or cannot be held to a grammar.
        MemoryError: not even one image fits into a GPU's memory.
        EmptyCaptionsError: every caption of a fine-tuned model is empty.
    """
    device = torch.device(computation.device)
    tokenizer = load_processor(computation.blip2).tokenizer  # type: ignore[attr-defined]
    computed = cut = 0

    def write(how: Captions, image_ids: pa.StringArray) -> pa.ChunkedArray:
        nonlocal computed, cut
        source = ImagesToWriteOf(inputs, image_ids, sampled=how.sampling is not None)
        with complete_rows(_fitting(how, params, device), source, base) as rows:
            computed += rows.computed
            if not how.grammar:
                cut += _unended(rows, len(source.places), how.max_new_tokens)
            texts = pa.chunked_array(_texts(rows, source.places, tokenizer), pa.string())
        _require_text(texts, how)
        return texts

    image_ids = images.captioned
    captions = write(computation, image_ids)
    free = pa.chunked_array([pa.nulls(len(image_ids), pa.string())])
    if len(images.free_too):
        freely = write(replace(computation, grammar=False), images.free_too)
        free = freely.take(pc.index_in(image_ids, images.free_too))
    if cut:
        log.warning(
            "warning: %d free captions did not end before %d tokens and are cut there: raise "
            "infer.max_new_tokens.",
            cut,
            computation.max_new_tokens,
        )
    return CaptionTable(pa.table([image_ids, captions, free], schema=CAPTIONS), computed, cut)


def _unended(rows: CompletedRows, images: int, most: int) -> int:
    """How many captions have so many tokens before their end."""
    every = np.arange(images)
    return sum(
        int((rows.read(every[start : start + ROWS_AT_ONCE])["count"] >= most).sum())
        for start in range(0, images, ROWS_AT_ONCE)
    )


def _texts(rows: CompletedRows, places: NDArray[np.int64], tokenizer: Any) -> Iterator[pa.Array]:
    for start in range(0, len(places), ROWS_AT_ONCE):
        some = rows.read(places[start : start + ROWS_AT_ONCE])
        tokens = (
            row[:count].tolist() for row, count in zip(some["tokens"], some["count"], strict=True)
        )
        yield pa.array(read_tokens(tokenizer, list(tokens)), pa.string())
