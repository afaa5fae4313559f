"""The table of foreground colours, which the stage ``colors`` writes, and colours as arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.compute.rows.completed_rows import (
    ROWS_AT_ONCE,
    CompletedRows,
    complete_rows,
)
from compositional_prompts.enhancement.colors.foreground_colors import (
    BINS,
    ForegroundColors,
    Palette,
)
from compositional_prompts.enhancement.colors.reference_colors import reference_colors
from compositional_prompts.enhancement.parameters import COLOR_METHODS, Enhance
from compositional_prompts.files.outputs import MismatchedOutputsError
from compositional_prompts.files.table_shards import iterate_shards, open_table_shards, shard_files
from compositional_prompts.files.tables import parquet_schema, required
from compositional_prompts.pipeline.section import Base

LARGEST_SHARD = 8 * 2**20
"""Bytes of a shard of colours, some 3,500 photos of mean size."""

VOTES = "votes: "
"""What the name of a group stands behind in a column; no group has a colon in its name."""

GroupColors = Mapping[str, NDArray[np.float32]]
"""By group of colours, float32 ``[images, 245 + words]``: the shares of the foreground's pixels in
the histogram, then nearest to each word of the group, 0 for words without a reference colour."""


def color_schema(words: Mapping[str, int]) -> pa.Schema:
    """``data/colors/``: of every photo, in the catalog's order, the colours of its foreground.

    ``histogram`` the share of the pixels in each of 245 bins of CIELAB, and for each group ``g`` of
    colours ``votes: g``, the share of them that each word is nearest to. Only ``image_id`` where
    no group's colours are wanted.

    Args:
        words: by group of colours, how many words it has.
    """
    fields = [required("image_id", pa.string())]
    if words:
        fields.append(required("histogram", pa.list_(pa.float16(), BINS)))
    fields += [
        required(f"{VOTES}{group}", pa.list_(pa.float32(), count)) for group, count in words.items()
    ]
    return pa.schema(fields)


def palettes_of(
    vocabulary: Mapping[str, Sequence[str]], params: Enhance
) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """The reference colours of every group of colours."""
    return {
        group: palette
        for group, words in vocabulary.items()
        if (palette := reference_colors(words, params.reference_colors)) is not None
    }


def wanted_palettes(
    vocabulary: Mapping[str, Sequence[str]], known: Collection[str], params: Enhance
) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """Those of :func:`palettes_of` whose groups have truth for the baseline to be held against, or
    are scored by colours.

    Args:
        vocabulary: words by group.
        known: the groups of which something is true of some image.
        params: the section ``enhance``.
    """
    return {
        group: palette
        for group, palette in palettes_of(vocabulary, params).items()
        if group in known or params.method_of(group) in COLOR_METHODS
    }


def write_colors(
    catalog: Path,
    out: Path,
    vocabulary: Mapping[str, Sequence[str]],
    palettes: Mapping[str, Palette],
    base: Base,
) -> tuple[int, int]:
    """Write the colours of every photo; each is looked at once for ever.

    Args:
        catalog: folder of shards.
        out: folder to write.
        vocabulary: words by group.
        palettes: of the groups whose colours are wanted; without any no photo is decoded.
        base: workers, engine and row store.

    Returns:
        The numbers of images, and of photos that were looked at now.
    """
    schema = color_schema({group: len(vocabulary[group]) for group in palettes})
    row_bytes = 2 * BINS + 4 * sum(len(vocabulary[group]) for group in palettes)
    with ExitStack() as stack:
        rows: CompletedRows | None = None
        if palettes:
            photos = CatalogPhotos(catalog)
            rows = stack.enter_context(complete_rows(ForegroundColors(palettes), photos, base))
        shards = stack.enter_context(open_table_shards(out, LARGEST_SHARD))
        batches = repeat(None) if rows is None else rows.batches(ROWS_AT_ONCE)
        images = 0
        for ids, colors in zip(_image_ids(catalog), batches, strict=False):
            columns = [ids]
            if colors is not None:
                columns.append(_fixed(colors["histogram"]))
                shares = vote_shares(colors["votes"], vocabulary, palettes)
                columns += map(_fixed, shares.values())
            table = pa.record_batch(columns, schema=schema)
            shards.write(table, ids.to_pylist(), row_bytes)
            images += len(ids)
        return images, 0 if rows is None else rows.computed


def _image_ids(catalog: Path) -> Iterator[pa.StringArray]:
    for batch in iterate_batches(catalog, ["image_id"], batch_size=ROWS_AT_ONCE):
        yield batch.column("image_id")


def _fixed(values: NDArray[Any]) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def vote_shares(
    votes: NDArray[np.uint16],
    vocabulary: Mapping[str, Sequence[str]],
    palettes: Mapping[str, Palette],
) -> dict[str, NDArray[np.float32]]:
    """By group, the share of the pixels that are nearest to each of its words.

    Args:
        votes: uint16 ``[n, words of all palettes]``, as rows have them.
        vocabulary: words by group.
        palettes: the reference colours, in the order of the votes.
    """
    shares, end = {}, 0
    for group, palette in palettes.items():
        start, end = end, end + len(palette)
        counts = votes[:, start:end].astype(np.float32)
        share = np.zeros((len(votes), len(vocabulary[group])), np.float32)
        places = [list(vocabulary[group]).index(word) for word in palette]
        share[:, places] = counts / counts.sum(axis=1, keepdims=True)
        shares[group] = share
    return shares


def colors_of_rows(
    rows: NDArray[Any],
    vocabulary: Mapping[str, Sequence[str]],
    palettes: Mapping[str, Palette],
) -> dict[str, NDArray[np.float32]]:
    """What scorers take (:data:`GroupColors`), of rows of :class:`ForegroundColors`."""
    histogram = rows["histogram"].astype(np.float32)
    shares = vote_shares(rows["votes"], vocabulary, palettes)
    return {group: np.hstack([histogram, share]) for group, share in shares.items()}


class ColorTable:
    """``data/colors/``, read a batch of rows at a time."""

    def __init__(self, path: Path) -> None:
        """Look at its columns.

        Raises:
            MissingOutputError: it is not there.
            DamagedOutputError: it holds no shard.
        """
        self.path = path
        names = parquet_schema(shard_files(path)[0])
        self._words = {
            field.name.removeprefix(VOTES): field.type.list_size
            for field in names
            if field.name.startswith(VOTES) and pa.types.is_fixed_size_list(field.type)
        }

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of colours in it."""
        return tuple(self._words)

    def check_words(self, vocabulary: Mapping[str, Sequence[str]], wanted_by: Path) -> None:
        """Hold the groups against those of another output.

        Args:
            vocabulary: words by group.
            wanted_by: what has them, for the error.

        Raises:
            MismatchedOutputsError: a group here is not there, or has another number of words.
        """
        for group, count in self._words.items():
            if count != len(vocabulary.get(group, ())):
                raise MismatchedOutputsError(
                    f"{self.path} has the colors of {count} words of the group {group!r}, and "
                    f"{wanted_by} has {len(vocabulary.get(group, ()))} words of it: both must be "
                    "made from one clip_embed.attributes.",
                    self.path,
                    wanted_by,
                )

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """All of it, at most ``rows`` rows at a time.

        Raises:
            SchemaError: a column is not as declared.
        """
        return iterate_shards(self.path, color_schema(self._words), rows)

    def colors(self, table: pa.Table | pa.RecordBatch) -> dict[str, NDArray[np.float32]]:
        """What scorers take (:data:`GroupColors`), of rows of :meth:`batches`."""
        if not self._words:
            return {}
        histogram = _values(table, "histogram").astype(np.float32)
        return {
            group: np.hstack([histogram, _values(table, f"{VOTES}{group}")])
            for group in self._words
        }


def _values(table: pa.Table | pa.RecordBatch, name: str) -> NDArray[Any]:
    column = table.column(name)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, column.type.list_size)


def pixel_words(colors: NDArray[np.float32], words: Sequence[str]) -> list[str]:
    """The baseline without a model: the word whose colour most of the pixels are nearest to.

    Args:
        colors: of one group, as in :data:`GroupColors`.
        words: of the group; of words with equally many pixels, the first.
    """
    return [words[place] for place in colors[:, BINS:].argmax(axis=1).tolist()]
