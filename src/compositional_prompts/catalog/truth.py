"""What is true of an image, by attribute group: a table of its own beside the catalog.

Groups are data: whatever a data set, or a user's CSV, knows of its images. A shoe of leather and
suede has both materials, and a description that names either is right: so an image may have several
words of one group, and whoever judges counts any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.outputs import atomic_file, require_outputs
from compositional_prompts.files.tables import (
    count_table_rows,
    iterate_table,
    parquet_writer,
    required,
)
from compositional_prompts.prompt.text_form import clean_text, first_spellings, word_form

SEPARATOR: Final = ";"
"""Between the words of a cell that are true, as in UT-Zap50K's ``meta-data.csv``."""

CANNOT_TELL: Final = "cannot tell"
"""What a person writes who looked and does not know: nothing is true then."""

NONE_OF_THESE: Final = "none of these"
"""What a person writes where no word of the vocabulary is true: a true word outside of it."""

TRUTH = pa.schema(
    [
        required("image_id", pa.string()),
        required("group", pa.string()),
        required("word", pa.string()),
    ]
)
"""``data/truth.parquet``: one row a true word of an image, in the order of the catalog; an image
has none, one or several of a group."""

_ROWS_AT_ONCE: Final = 2**16


def true_words(cell: str | None) -> list[str]:
    """The words that are true, each once, cleaned; none where nothing is known."""
    words = first_spellings(map(clean_text, (cell or "").split(SEPARATOR)), word_form)
    return [word for word in words if word_form(word) not in ("", CANNOT_TELL)]


class TruthWriter:
    """Appends the truth of rows; memory holds :data:`_ROWS_AT_ONCE` words at most, some MB."""

    def __init__(self, file: pq.ParquetWriter) -> None:
        self._file = file
        # By column: a dictionary for each of the words would be four times as large.
        self._image_ids: list[str] = []
        self._groups: list[str] = []
        self._words: list[str] = []

    def write(self, row: CatalogRow) -> None:
        self.write_words(row.image_id, {group: true_words(row.truth[group]) for group in row.truth})

    def write_words(self, image_id: str, truth: Mapping[str, Sequence[str]]) -> None:
        """Append the words that are true of an image, by group."""
        for group, words in truth.items():
            self._words += words
            self._groups += [group] * len(words)
            self._image_ids += [image_id] * len(words)
        if len(self._words) >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        self._file.write_table(pa.table([self._image_ids, self._groups, self._words], TRUTH))
        self._image_ids, self._groups, self._words = [], [], []


@contextmanager
def open_truth(path: Path) -> Iterator[TruthWriter]:
    """A writer of ``data/truth.parquet``, which appears, or is replaced, if the block ends."""
    with (
        atomic_file(path) as temporary,
        parquet_writer(temporary, TRUTH) as file,
    ):
        writer = TruthWriter(file)
        yield writer
        writer.flush()


def respell_truth(path: Path, spellings: Mapping[str, Mapping[str, str]]) -> None:
    """Write words of ``data/truth.parquet`` otherwise; nothing else changes.

    Args:
        path: the table, which is replaced whole.
        spellings: by group, what is written for some of its words.
    """
    with open_truth(path) as writer:
        for batch in iterate_table(path, TRUTH, _ROWS_AT_ONCE):
            rows = zip(*(batch[name].to_pylist() for name in TRUTH.names), strict=True)
            for image_id, group, word in rows:
                kept = spellings.get(group, {}).get(word, word)
                writer.write_words(image_id, {group: [kept]})


class TruthTable:
    """The true words of some groups, to be asked for a block of images at a time.

    Memory holds 20 bytes a true word, 16 of them the digest of its image_id, and every different
    word once.
    """

    def __init__(self, path: Path, groups: Sequence[str]) -> None:
        """Read ``data/truth.parquet``.

        Args:
            path: the table.
            groups: those to keep; nothing need be known of them.

        Raises:
            MissingOutputError: the file is not there.
            SchemaError: it is not as declared.
        """
        self.groups = tuple(groups)
        require_outputs(path)
        words: dict[tuple[str, str], int] = {}
        most = count_table_rows(path)
        first, second = np.empty(most, np.uint64), np.empty(most, np.uint64)
        codes, end = np.empty(most, np.int32), 0
        for batch in iterate_table(path, TRUTH, _ROWS_AT_ONCE):
            wanted = batch.filter(pc.is_in(batch["group"], pa.array(groups, pa.string())))
            pairs = zip(wanted["group"].to_pylist(), wanted["word"].to_pylist(), strict=True)
            rows = slice(end, end := end + wanted.num_rows)
            codes[rows] = [words.setdefault(pair, len(words)) for pair in pairs]
            first[rows], second[rows] = _hashes(wanted["image_id"])
        order = np.argsort(first[:end], kind="stable")
        self._first, self._second, self._codes = first[order], second[order], codes[order]
        self._words = list(words)

    @property
    def known(self) -> set[str]:
        """The groups of which something is known of some image."""
        return {group for group, _ in self._words}

    def of(self, image_ids: pa.StringArray) -> dict[str, list[tuple[str, ...]]]:
        """By group, the words of ``n`` images in their order; none where nothing is known."""
        truth: dict[str, list[tuple[str, ...]]] = {
            group: [()] * len(image_ids) for group in self.groups
        }
        first, second = _hashes(image_ids)
        starts, ends = (np.searchsorted(self._first, first, side) for side in ("left", "right"))
        for image in np.flatnonzero(ends > starts).tolist():
            for row in range(starts[image], ends[image]):
                if self._second[row] == second[image]:
                    group, word = self._words[self._codes[row]]
                    truth[group][image] += (word,)
        return truth


def known_groups(path: Path) -> set[str]:
    """The groups of which something is known of some image, in ``data/truth.parquet``.

    Raises:
        MissingOutputError, SchemaError: as :class:`TruthTable`.
    """
    require_outputs(path)
    batches = iterate_table(path, TRUTH, _ROWS_AT_ONCE, ["group"])
    return {group for batch in batches for group in batch["group"].unique().to_pylist()}


def _hashes(image_ids: pa.StringArray) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The halves of every image_id's digest, each ``[n]``."""
    digests = b"".join(content_digest(name.encode()) for name in image_ids.to_pylist())
    halves = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def read_truth(
    path: Path, image_ids: pa.StringArray, groups: Sequence[str]
) -> dict[str, list[tuple[str, ...]]]:
    """The true words of some images in some groups, as :meth:`TruthTable.of` gives them."""
    return TruthTable(path, groups).of(image_ids)
