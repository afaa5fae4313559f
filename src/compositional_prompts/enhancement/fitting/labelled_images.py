"""The images of a caption split with what is true of them: what scorers are learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compositional_prompts.catalog.image_join import rows_of_images
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.catalog.truth import TruthTable
from compositional_prompts.clip.vector_tables import (
    ROWS,
    embedding_dimension,
    iterate_image_vectors,
)
from compositional_prompts.enhancement.colors.color_tables import ColorTable, GroupColors
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.table_shards import shard_files
from compositional_prompts.files.tables import iterate_table
from compositional_prompts.prompt.text_form import word_form

IDS_AT_ONCE = 65_536


@dataclass(frozen=True)
class LabelledImages:
    """Images of which something is true, ``n`` of them, maybe none.

    Attributes:
        vectors: L2-normalised float32 ``[n, d]``.
        colors: of the groups whose colours are known, float32 ``[n, 245 + words]`` as in
            :data:`GroupColors`.
        truth: by group, which words are true, bool ``[n, words]``; an image without a true word of
            the vocabulary has none.
        known: by group, of which images something is true, in the vocabulary or not, bool ``[n]``.
        products: which images show one product, int64 ``[n]``: equal numbers.
        image_ids: of the images, where they come from a table.
    """

    vectors: NDArray[np.float32]
    colors: GroupColors
    truth: Mapping[str, NDArray[np.bool_]]
    known: Mapping[str, NDArray[np.bool_]]
    products: NDArray[np.int64]
    image_ids: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: NDArray[np.int64]) -> LabelledImages:
        """The images at some places."""
        return LabelledImages(
            self.vectors[rows],
            {group: colors[rows] for group, colors in self.colors.items()},
            {group: truth[rows] for group, truth in self.truth.items()},
            {group: known[rows] for group, known in self.known.items()},
            self.products[rows],
            [self.image_ids[row] for row in rows] if self.image_ids else (),
        )

    def with_copies(self, copies: Sequence[tuple[NDArray[np.float32], GroupColors]]) -> Self:
        """The images, then copies of all of them, with the same truth, and of the same products.

        Args:
            copies: vectors float32 ``[n, d]`` and colours of each, in the order of the images.
        """
        vectors, colors = zip((self.vectors, self.colors), *copies, strict=True)
        times = len(vectors)
        return replace(
            self,
            vectors=np.concatenate(vectors),
            colors={group: np.concatenate([one[group] for one in colors]) for group in self.colors},
            truth={group: np.tile(mask, (times, 1)) for group, mask in self.truth.items()},
            known={group: np.tile(mask, times) for group, mask in self.known.items()},
            products=np.tile(self.products, times),
            image_ids=[*self.image_ids] * times,
        )

    def of_group(self, group: str) -> LabelledImages:
        """Those with a true word of the group's vocabulary."""
        return self.take(np.flatnonzero(self.truth[group].any(axis=1)))

    def known_of_group(self, group: str) -> LabelledImages:
        """Those of which something is true, in the vocabulary or not."""
        return self.take(np.flatnonzero(self.known[group]))

    def outside(self, group: str) -> int:
        """How many have truth in the group, and none of it in the vocabulary."""
        return int((self.known[group] & ~self.truth[group].any(axis=1)).sum())


@dataclass(frozen=True)
class FittingPaths:
    """What labelled images are read from.

    Attributes:
        splits: ``splits.parquet``.
        truth: ``truth.parquet``.
        vectors: folder of the images' CLIP vectors.
        colors: folder of their colours.
    """

    splits: Path
    truth: Path
    vectors: Path
    colors: Path


def read_labelled(
    paths: FittingPaths,
    split: str,
    vocabulary: Mapping[str, Sequence[str]],
    colored: Sequence[str],
    most: int,
) -> LabelledImages:
    """The images of a caption split of which something is true in a group.

    Truth of other splits is not looked at. Memory holds the image_ids of the split, and vectors
    and colours of at most ``most`` images.

    Args:
        paths: the tables.
        split: train or val.
        vocabulary: words of the groups that truth is wanted of; without any there are no images.
        colored: the groups whose colours are wanted.
        most: images at most; of more, those whose image_ids have the lowest digests, so that a
            grown catalog has mostly the same.

    Returns:
        The images, in the order of the splits.

    Raises:
        MissingOutputError, SchemaError, ImageJoinError: an input is not there, not as declared, or
            lacks an image.
    """
    truth = TruthTable(paths.truth, tuple(vocabulary))
    places = {
        group: {word_form(word): place for place, word in enumerate(words)}
        for group, words in vocabulary.items()
    }
    ids: list[str] = []
    products: list[str] = []
    truths: dict[str, list[NDArray[np.bool_]]] = {group: [] for group in vocabulary}
    knowns: dict[str, list[NDArray[np.bool_]]] = {group: [] for group in vocabulary}
    for batch in _split_batches(paths.splits, split):
        true = truth.of(batch.column("image_id"))
        known = {
            group: np.array([bool(words) for words in true[group]], np.bool_)
            for group in vocabulary
        }
        rows = np.flatnonzero(np.any(list(known.values()), axis=0)) if known else _NONE
        taken = batch.take(pa.array(rows))
        ids += taken.column("image_id").to_pylist()
        products += taken.column("product_id").to_pylist()
        for group, mask in known.items():
            knowns[group].append(mask[rows])
            truths[group].append(_mask([true[group][row] for row in rows], places[group]))
    rows = _chosen_rows(ids, most)
    chosen = [ids[row] for row in rows]
    names = [products[row] for row in rows]
    return LabelledImages(
        _vectors(paths, chosen),
        _colors(paths, chosen, colored),
        {
            group: np.concatenate([np.zeros((0, len(words)), np.bool_), *truths[group]])[rows]
            for group, words in vocabulary.items()
        },
        {
            group: np.concatenate([np.zeros(0, np.bool_), *knowns[group]])[rows]
            for group in vocabulary
        },
        np.unique(names, return_inverse=True)[1].astype(np.int64),
        chosen,
    )


_NONE = np.empty(0, np.int64)


def _split_batches(splits: Path, split: str) -> Iterator[pa.RecordBatch]:
    columns = ["image_id", "product_id", "caption_split"]
    for batch in iterate_table(splits, SPLITS, IDS_AT_ONCE, columns):
        yield batch.filter(pc.equal(batch.column("caption_split"), split))


def _mask(truth: Sequence[tuple[str, ...]], places: Mapping[str, int]) -> NDArray[np.bool_]:
    mask = np.zeros((len(truth), len(places)), np.bool_)
    for row, words in enumerate(truth):
        for word in words:
            if (place := places.get(word_form(word))) is not None:
                mask[row, place] = True
    return mask


def _chosen_rows(ids: Sequence[str], most: int) -> NDArray[np.int64]:
    if len(ids) <= most:
        return np.arange(len(ids))
    digests = [content_digest(name.encode()) for name in ids]
    return np.sort(np.array(sorted(range(len(ids)), key=digests.__getitem__)[:most], np.int64))


def _vectors(paths: FittingPaths, ids: Sequence[str]) -> NDArray[np.float32]:
    dimension = embedding_dimension(shard_files(paths.vectors)[0])
    if not ids:
        return np.empty((0, dimension), np.float32)
    batches = (
        pa.record_batch(
            [names, pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), dimension)],
            ["image_id", "vector"],
        )
        for names, vectors in iterate_image_vectors(paths.vectors, ROWS)
    )
    table = rows_of_images(ids, batches, table=paths.vectors, wanted_by=paths.splits)
    found: NDArray[np.float32] = table.column("vector").combine_chunks().flatten().to_numpy()
    return found.reshape(-1, dimension)


def _colors(
    paths: FittingPaths, ids: Sequence[str], groups: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    if not groups:
        return {}
    table = ColorTable(paths.colors)
    rows = rows_of_images(ids, table.batches(ROWS), table=paths.colors, wanted_by=paths.splits)
    found = table.colors(rows)
    return {group: found[group] for group in groups if group in found}
