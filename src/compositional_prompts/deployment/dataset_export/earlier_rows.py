"""What earlier exports, or earlier commits, had: so that an export can be of what is new."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compositional_prompts.catalog.aligned_table import AlignedTable
from compositional_prompts.catalog.reading import iterate_batches, iterate_ids
from compositional_prompts.compute.rows.key_index import ABSENT, KeyIndex
from compositional_prompts.deployment.dataset_export.exported_rows import (
    Captions,
    ExportedRow,
    ExportPaths,
)
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.files.tables import iterate_table, open_parquet, parquet_writer, required
from compositional_prompts.reporting.comparing.revision_files import open_revision

FOLDER: Final = Path(".compositional-prompts")
"""In an export, what later exports read of it; readers of data sets pass over hidden folders."""

MANIFEST: Final = FOLDER / "export.json"
KEYS: Final = FOLDER / "rows.parquet"
MAKER: Final = "compositional-prompts export-data"

_KEY: Final = pa.binary(16)
KEYS_SCHEMA: Final = pa.schema([required("photo", _KEY), required("row", _KEY)])
"""Of every row the digests of its photo and image_id, and of these with the caption."""

_ROWS_AT_ONCE: Final = 2**16

_TEXT_COLUMNS: Final[Mapping[Captions, str]] = {
    "recommended": "recommended",
    "readable": "readable",
    "finetuned": "caption",
}
"""Columns of ``recommended.parquet``."""


class EarlierExportError(ValueError):
    """An earlier export is not one, or has other captions."""


class Keys(NamedTuple):
    """Of rows: ``V16 [n]`` each."""

    photos: NDArray[np.void]
    rows: NDArray[np.void]


def row_keys(rows: Sequence[tuple[bytes, str, str]]) -> Keys:
    """The keys of rows: the content of their photo, image_id and caption."""
    photos = b"".join(content_digest(content, image_id) for content, image_id, _ in rows)
    whole = b"".join(content_digest(*row) for row in rows)
    return Keys(np.frombuffer(photos, "V16"), np.frombuffer(whole, "V16"))


def keys_of(rows: Sequence[ExportedRow]) -> Keys:
    """The keys of rows with a caption."""
    return row_keys([(row.content, row.values["image_id"], row.values["caption"]) for row in rows])


class KeysWriter:
    """Writes the keys of an export; memory holds 32 bytes of each of 65,536 rows."""

    def __init__(self, directory: Path) -> None:
        (directory / FOLDER).mkdir()
        self._file = parquet_writer(directory / KEYS, KEYS_SCHEMA, use_dictionary=False)
        self._waiting: list[Keys] = []

    def write(self, keys: Keys) -> None:
        self._waiting.append(keys)
        if sum(len(one.photos) for one in self._waiting) >= _ROWS_AT_ONCE:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(
                _KEY, len(values), [None, pa.py_buffer(values.tobytes())]
            )
            for values in (np.concatenate(part) for part in zip(*self._waiting, strict=True))
        ]
        if columns:
            self._file.write_table(pa.table(columns, schema=KEYS_SCHEMA))
        self._waiting = []


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """What an export says of itself; None where the folder is no export."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("made_by") == MAKER else None


class EarlierRows:
    """Rows that need not be exported again; 48 bytes each."""

    def __init__(self, earlier: Sequence[str], paths: ExportPaths, captions: Captions) -> None:
        """Read them.

        Args:
            earlier: folders of exports, or revisions of the project.
            paths: of the tables that revisions are asked for.
            captions: those that are exported now.

        Raises:
            EarlierExportError: a folder is no export, or one of other captions.
            RevisionError: there is no such revision, or what it had is not in DVC's cache.
        """
        self._photos, self._rows = KeyIndex(), KeyIndex()
        for name in earlier:
            folder = Path(name)
            found = (
                _of_export(folder, captions)
                if folder.is_dir()
                else _of_revision(name, paths, captions)
            )
            for keys in found:
                for index, values in ((self._photos, keys.photos), (self._rows, keys.rows)):
                    index.add(values, np.zeros(len(values), np.int64))

    def have(self, keys: Keys) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows were there, and of which the photo was, whatever its caption; ``[n]`` each."""
        return self._rows.find(keys.rows) != ABSENT, self._photos.find(keys.photos) != ABSENT


def _of_export(folder: Path, captions: Captions) -> Iterator[Keys]:
    manifest = read_manifest(folder)
    if manifest is None:
        raise EarlierExportError(
            f"--only-new {folder}: the folder is no export of `{MAKER}` (no {MANIFEST}): name one, "
            "or a revision of the project."
        )
    if manifest.get("captions") != captions:
        raise EarlierExportError(
            f"--only-new {folder}: it has the captions {manifest.get('captions')!r}, and these are "
            f"{captions!r}, so that every row would be new: export with --captions "
            f"{manifest.get('captions')}."
        )
    try:
        for batch in iterate_table(folder / KEYS, KEYS_SCHEMA, _ROWS_AT_ONCE):
            photos, rows = (b"".join(column.to_pylist()) for column in batch.columns)
            yield Keys(np.frombuffer(photos, "V16"), np.frombuffer(rows, "V16"))
    except (pa.ArrowException, DamagedOutputError) as error:
        said = error.__cause__ or error
        raise DamagedOutputError(
            f"--only-new {folder}: its {KEYS} is damaged ({said}): name another.", folder / KEYS
        ) from error


def _of_revision(revision: str, paths: ExportPaths, captions: Captions) -> Iterator[Keys]:
    table = paths.enhanced if captions == "enhanced" else paths.recommended
    column = _TEXT_COLUMNS.get(captions, "enhanced_prompt")
    with open_revision(Path(), revision, [paths.catalog, table]) as folder:
        catalog = folder / paths.catalog
        texts = AlignedTable(
            lambda: _texts(folder / table, column),
            table,
            lambda: (pa.record_batch([ids], ["image_id"]) for ids in iterate_ids(catalog)),
            paths.catalog,
        )
        for batch in iterate_batches(catalog, ["image_id", "content"], batch_size=1024):
            captioned = texts.take(batch.column("image_id")).column(column).to_pylist()
            contents, ids = (batch.column(name).to_pylist() for name in ("content", "image_id"))
            rows = zip(contents, ids, captioned, strict=True)
            yield row_keys([row for row in rows if row[2] is not None])


def _texts(path: Path, column: str) -> Iterator[pa.RecordBatch]:
    """Two columns of a table of any version of the pipeline that has them."""
    with open_parquet(path) as file:
        if column not in file.schema_arrow.names:
            raise EarlierExportError(f"--only-new: the revision's {path.name} has no {column!r}.")
        yield from file.iter_batches(1024, columns=["image_id", column])
