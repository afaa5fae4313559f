"""What is true of an image, by attribute group: a table of its own beside the catalog.

Groups are data: whatever a data set, or a user's CSV, knows of its images. A shoe of leather and
suede has both materials, and a description that names either is right: so an image may have several
words of one group, and whoever judges counts any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.files.tables import read_table, required

SEPARATOR: Final = ";"
"""Between the words of a cell that are true, as in UT-Zap50K's ``meta-data.csv``."""

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
    """The words that are true, each once, without outer space; none where nothing is known."""
    words = (word.strip() for word in (cell or "").split(SEPARATOR))
    return list(dict.fromkeys(word for word in words if word))


class TruthWriter:
    """Appends the truth of rows; memory holds some ten thousand words."""

    def __init__(self, file: pq.ParquetWriter) -> None:
        self._file = file
        self._rows: list[dict[str, str]] = []

    def write(self, row: CatalogRow) -> None:
        for group, cell in row.truth.items():
            self._rows += [
                {"image_id": row.image_id, "group": group, "word": word}
                for word in true_words(cell)
            ]
        if len(self._rows) >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._rows, TRUTH))
        self._rows = []


@contextmanager
def open_truth(path: Path) -> Iterator[TruthWriter]:
    """A writer of ``data/truth.parquet``, which appears, or is replaced, if the block ends."""
    with (
        atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, TRUTH, compression="zstd") as file,
    ):
        writer = TruthWriter(file)
        yield writer
        writer.flush()


def read_truth(
    path: Path, image_ids: pa.StringArray, groups: Sequence[str]
) -> dict[str, list[tuple[str, ...]]]:
    """The true words of some images in some groups.

    Args:
        path: ``data/truth.parquet``.
        image_ids: string ``[n]``, without repeats.
        groups: of which nothing need be known.

    Returns:
        By group, the words of the ``n`` images in their order; none where nothing is known.

    Raises:
        FileNotFoundError: the file is not there.
        SchemaError: it is not as declared.
    """
    table = read_table(path, TRUTH)
    table = table.filter(pc.is_in(table["group"], pa.array(groups, pa.string())))
    rows = pc.index_in(table["image_id"], value_set=image_ids).to_pylist()
    truth: dict[str, list[tuple[str, ...]]] = {group: [()] * len(image_ids) for group in groups}
    for row, group, word in zip(
        rows, table["group"].to_pylist(), table["word"].to_pylist(), strict=True
    ):
        if row is not None:
            truth[group][row] += (word,)
    return truth
