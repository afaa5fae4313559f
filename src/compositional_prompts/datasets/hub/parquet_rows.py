"""Rows of Parquet files with photos in them: labels first, then the photos of the rows kept.

What is read is chosen before a photo is: columns that are not asked for are never read, nor are
row groups of which nothing is kept. ``datasets`` streams 36,902 photographs
with a label in 15 s and 800 MiB, beside another measurement, where this takes 0.6 s and 120 MiB
(``benchmarks/hub_reading.py``), and reads all photos.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import types

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.columns import (
    ColumnReader,
    Columns,
    Name,
    missing_column,
)
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.hub.hub_layout import (
    EXTENSION,
    HubError,
    HubFiles,
    SplitFile,
    class_names,
)
from compositional_prompts.files.distinct import Distinct
from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.files.tables import IMAGE, is_spelling, open_parquet
from compositional_prompts.pipeline.section import Section, Words, require_distinct
from compositional_prompts.prompt.pair import NO_ATTRIBUTE, Pair
from compositional_prompts.prompt.text_form import label_form, word_form

log = logging.getLogger(__name__)

DROPPED: Final = ("filtered", "over_limit", "missing_label", "rare_pair")
"""Why rows are left out, in the order in which it is asked."""

# Photos are read a little at a time, never a whole row group of them.
_BUFFER_BYTES: Final = 2**20
_PHOTO_BYTES: Final = 2**23
_PHOTO_ROWS: Final = 64
_LABEL_ROWS: Final = 1024

_NO_PAIR: Final = -1


class RowFilter(Section):
    """Keep the rows whose ``column`` holds one of ``values``.

    Words are compared in any case; numbers as they are written, those of classes by the names of
    these.
    """

    column: Name
    values: Words


class RowChoice(NamedTuple):
    """Which rows are taken, and what their columns mean.

    Attributes:
        columns: the mapping; it names an image.
        filters: all of which a row must pass.
        min_pair_images: rarer pairs of labels are left out, or labels where there is one only.
        missing_labels: values that mean "not known".
        on_missing: drop an image without label, or keep it.
        limit: the first rows only, of those that pass ``filters``.
        pair_splits: by split of the data set, what it is called in the catalog; None where splits
            of the data set are not kept.
    """

    columns: Columns
    filters: Sequence[RowFilter]
    min_pair_images: int
    missing_labels: Sequence[str]
    on_missing: Literal["drop", "keep"]
    limit: int | None
    pair_splits: Mapping[str, str] | None


@dataclass(frozen=True)
class _RowGroup:
    """The rows kept of a row group.

    Attributes:
        file: its place among the files.
        number: of the row group in it.
        first: the number of its first row in the file.
        kept: bool ``[rows]``.
    """

    file: int
    number: int
    first: int
    kept: NDArray[np.bool_]


def select_rows(files: HubFiles, choice: RowChoice, source: str) -> Selection:
    """The rows of Parquet files that are chosen, each image with what is said of it.

    Rows are left out, and counted in ``dropped``, in the order of :data:`DROPPED`. Of a million
    rows memory holds 1 byte each, 4 more of those kept, and 8 of their ids where a column has
    them. Without such a column the ``image_id`` is the file's name below the root of the data set,
    without its extension, and the number of the row in it from 0 on
    (``data/train-00000-of-00002/17``): whatever is filtered, and whatever files are beside it, it
    stays.

    Raises:
        HubError: a file is no Parquet, or an image_id is there twice.
        ColumnError: a column is missing, or a value is not what it should be.
    """
    tables = [_Table(file, choice, files.features) for file in files.files]
    _warn_of_numbers(tables, choice.columns)
    dropped = dict.fromkeys(DROPPED, 0)
    groups: list[_RowGroup] = []
    ids = Distinct()
    numbers: dict[Pair, int] = {}
    pairs = array("i")
    passed = 0
    for place, table in enumerate(tables):
        for number, first, rows in table.labels():
            kept = np.zeros(table.rows_of(number), np.bool_)
            for row, record in enumerate(rows):
                where = table.place(first + row)
                if not table.passes(record, where):
                    dropped["filtered"] += 1
                    continue
                image_id = table.reader.image_id(record, where)
                if image_id is not None and not ids.add(image_id.encode()):
                    _raise_twice(tables, image_id, where)
                passed += 1
                if choice.limit is not None and passed > choice.limit:
                    dropped["over_limit"] += 1
                    continue
                attribute, object_ = table.reader.labels(record, where)
                if object_ is None:
                    if choice.on_missing == "drop":
                        dropped["missing_label"] += 1
                        continue
                    pairs.append(_NO_PAIR)
                else:
                    forms = label_form(attribute or NO_ATTRIBUTE), label_form(object_)
                    pairs.append(numbers.setdefault(forms, len(numbers)))
                kept[row] = True
            groups.append(_RowGroup(place, number, first, kept))
    dropped["rare_pair"] = _drop_rare(groups, pairs, choice.min_pair_images)
    groups = [group for group in groups if group.kept.any()]
    total = sum(int(group.kept.sum()) for group in groups)
    kept_out = list(dict.fromkeys(name for table in tables for name in table.kept_out))
    return Selection(source, _rows(tables, groups), total, dropped, columns_kept_out=kept_out)


def _drop_rare(groups: Sequence[_RowGroup], pairs: array[int], fewest: int) -> int:
    """Take the rows of rare pairs from ``groups``; how many there are.

    Args:
        groups: row groups; their ``kept`` is changed.
        pairs: the number of the pair of every row kept; -1 without one.
        fewest: images that a pair must have.
    """
    found = np.frombuffer(pairs, np.intc) if pairs else np.empty(0, np.intc)
    counts = np.bincount(found[found != _NO_PAIR])
    # The last place is that of rows without a pair.
    rare = np.append(counts < fewest, False)[found]
    start = 0
    for group in groups:
        rows = np.flatnonzero(group.kept)
        group.kept[rows[rare[start : start + len(rows)]]] = False
        start += len(rows)
    return int(rare.sum())


def _rows(tables: Sequence[_Table], groups: Sequence[_RowGroup]) -> Iterator[CatalogRow]:
    for place, table in enumerate(tables):
        own = [group for group in groups if group.file == place]
        if own:
            yield from table.rows(own)


def _raise_twice(tables: Sequence[_Table], image_id: str, second: str) -> None:
    """Raise that an image_id is there twice, unless only its digest is."""
    for table in tables:
        for _, first, rows in table.labels():
            for row, record in enumerate(rows, first):
                place = table.place(row)
                if place == second:
                    return
                if not table.passes(record, place):
                    continue
                if table.reader.image_id(record, place) == image_id:
                    raise HubError(
                        f"image_id {image_id!r} occurs twice: in {place} and in {second}; remove "
                        "one of the rows, or name another column as image_id, or none."
                    )


def _warn_of_numbers(tables: Sequence[_Table], columns: Columns) -> None:
    """Say of labels that are numbers, and no names are known for."""
    for name in dict.fromkeys(filter(None, (columns.attribute, columns.object))):
        for table in tables:
            if name not in table.classes and types.is_integer(table.schema.field(name).type):
                log.warning(
                    "warning: column %r holds numbers, and the data set names no classes for "
                    "them: the numbers are the labels.",
                    name,
                )
                break


class _Table:
    """One of the files: its columns checked, and its rows."""

    def __init__(self, file: SplitFile, choice: RowChoice, features: Mapping[str, Any]) -> None:
        self._file = file
        self._choice = choice
        columns = choice.columns
        try:
            self._metadata = pq.read_metadata(file.path)
            self.schema = self._metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise HubError(f"{file.path}: is no Parquet that can be read: {error}") from error
        columns.require(self.schema.names, str(file.path))
        try:
            require_distinct(self.schema.names, "has the column")
        except ValueError as error:
            raise HubError(f"{file.path}: {error}.") from error
        filtered = [one.column for one in choice.filters]
        for name in filtered:
            if name not in self.schema.names:
                raise HubError(missing_column(name, self.schema.names, str(file.path)))
        self._image = columns.image or ""
        kind = self.schema.field(self._image).type
        self._bare = is_spelling(kind, pa.binary()) and not types.is_null(kind)
        if not self._bare and not is_spelling(kind, IMAGE):
            raise HubError(
                f"{file.path}: column {self._image!r} is {kind}, expected photos: {IMAGE} or "
                "binary."
            )
        self._labels = list(dict.fromkeys([*columns.described, *filtered]))
        self.kept_out = [
            name for name in columns.kept_out(self.schema.names) if name not in filtered
        ]
        self.classes = class_names(self.schema, features, str(file.path))
        self.reader = ColumnReader(columns, choice.missing_labels, self.classes)
        self._filters = [
            (one.column, frozenset(map(word_form, one.values))) for one in choice.filters
        ]
        # A filter may ask for what means "not known".
        self._plain = ColumnReader(columns, (), self.classes)
        self._split: str | None = None
        if choice.pair_splits is not None:
            self._split = choice.pair_splits.get(file.split or "")
            if self._split is None:
                raise HubError(
                    f"{file.path} is of the split {file.split!r}, and of those to keep each must "
                    f"be one of {', '.join(choice.pair_splits)}: name the splits to read, or do "
                    "not keep them."
                )

    def place(self, row: int) -> str:
        """A row of the file, for messages; the first is 0."""
        return f"{self._file.path}, row {row}"

    def rows_of(self, group: int) -> int:
        return int(self._metadata.row_group(group).num_rows)

    def passes(self, record: Mapping[str, Any], place: str) -> bool:
        """Whether a row passes the filters."""
        return all(
            (text := self._plain.text(record, column, place)) is not None
            and word_form(text) in values
            for column, values in self._filters
        )

    def labels(self) -> Iterator[tuple[int, int, Iterator[dict[str, Any]]]]:
        """Of every row group its number, that of its first row, and its rows without photos."""
        first = 0
        with closing(open_parquet(self._file.path, _BUFFER_BYTES)) as parquet:
            for number in range(self._metadata.num_row_groups):
                yield number, first, self._records(parquet, number, self._labels, _LABEL_ROWS)
                first += self.rows_of(number)

    def rows(self, groups: Sequence[_RowGroup]) -> Iterator[CatalogRow]:
        """The rows kept of some row groups."""
        columns = [self._image, *(name for name in self._labels if name != self._image)]
        with closing(open_parquet(self._file.path, _BUFFER_BYTES)) as parquet:
            for group in groups:
                count = self._photos_at_once(group.number)
                records = self._records(parquet, group.number, columns, count, group.kept)
                rows = (np.flatnonzero(group.kept) + group.first).tolist()
                for row, record in zip(rows, records, strict=True):
                    yield self._row(record, row)

    def _photos_at_once(self, group: int) -> int:
        """How many rows of a row group are read at a time, by the mean size of its photos."""
        found = self._metadata.row_group(group)
        rows = max(1, found.num_rows)
        return int(max(1, min(_PHOTO_ROWS, _PHOTO_BYTES * rows // max(1, found.total_byte_size))))

    def _records(
        self,
        parquet: pq.ParquetFile,
        group: int,
        columns: Sequence[str],
        count: int,
        kept: NDArray[np.bool_] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The rows of a row group, ``count`` read at a time; where ``kept`` is given, those."""
        # Without a column Arrow knows no number of rows.
        if not columns:
            yield from ({} for _ in range(self.rows_of(group)))
            return
        start = 0
        declared = pa.schema([(name, self._declared(name)) for name in columns])
        try:
            for batch in parquet.iter_batches(count, [group], list(columns), use_threads=False):
                rows = batch.select(list(columns)).cast(declared)
                if kept is not None:
                    rows = rows.filter(pa.array(kept[start : start + batch.num_rows]))
                start += batch.num_rows
                yield from rows.to_pylist()
        except (pa.ArrowException, DamagedOutputError, OSError) as error:
            raise HubError(
                f"{self._file.path}: row group {group} cannot be read: {error.__cause__ or error}"
            ) from error

    def _declared(self, column: str) -> pa.DataType:
        """The type that a column is read in: rows of views cannot be chosen."""
        kind = self.schema.field(column).type
        if column == self._image:
            return pa.binary() if self._bare else IMAGE
        return pa.string() if types.is_string_view(kind) else kind

    def _row(self, record: Mapping[str, Any], row: int) -> CatalogRow:
        place = self.place(row)
        image_id = self.reader.image_id(record, place)
        if image_id is None:
            image_id = f"{self._file.name.removesuffix(EXTENSION)}/{row}"
        described = self.reader.describe(record, place)
        image = record[self._image]
        stored = {"bytes": image} if self._bare else image or {}
        return CatalogRow(
            image_id=image_id,
            product_id=described.product_id or image_id,
            image=stored.get("bytes"),
            path=stored.get("path") or image_id,
            attribute=described.attribute,
            object=described.object,
            title=described.title,
            pair_split=self._split,
            truth=described.truth,
        )
