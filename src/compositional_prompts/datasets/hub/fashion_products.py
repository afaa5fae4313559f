"""Product photographs in the layout of ``ashraq/fashion-product-images-small`` on the hub.

Kaggle's "Fashion Product Images (Small)" by Param Aggarwal: Parquet files with the columns id,
gender, masterCategory, subCategory, articleType, baseColour, season, year, usage,
productDisplayName and image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.dataset import Caveat, DataSet, Selection
from compositional_prompts.files.tables import IMAGE, is_spelling, open_parquet
from compositional_prompts.pipeline.section import Base, Positive, Words
from compositional_prompts.prompt.pair import dotted

ID_COLUMN: Final = "id"
TITLE_COLUMN: Final = "productDisplayName"
COLOR_COLUMN: Final = "baseColour"
IMAGE_COLUMN: Final = "image"
FILES: Final = "data/*.parquet"
_HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")

# Images are read a little at a time, never a whole row group of them.
_BATCH_ROWS: Final = 64
_BUFFER_BYTES: Final = 2**20


class FashionProductsError(ValueError):
    """The data set cannot be had, or is not in the expected layout."""


class _Label(NamedTuple):
    """Attribute and object of one kept image; None for both where they are not known."""

    attribute: str | None
    object: str | None


class _RowGroup(NamedTuple):
    """One row group of a file and the labels of the rows kept from it, by id."""

    file: Path
    number: int
    labels: dict[int, _Label]


class FashionProducts(DataSet):
    """The products that the parameters keep, with attribute, object and colour from the shop."""

    name: ClassVar[str] = "fashion_products"
    caveat: ClassVar[Caveat] = Caveat(
        "A shop's labels are the truth",
        "Colors and types are those a shop typed in. Some are wrong, some products have two "
        "colors and one label, and several names (navy blue, blue) lie close to one another.",
    )
    description: ClassVar[str] = "product photographs in the layout of Fashion Product Images"
    licence: ClassVar[str] = (
        "The photographs are a shop's: see the terms of whoever published them."
    )

    source: str
    revision: str | None
    filters: dict[str, Words]
    attribute: str
    object: str
    min_pair_images: Positive
    missing_labels: list[str]
    on_missing: Literal["drop", "keep"]
    limit: Positive | None

    def select(self, base: Base) -> Selection:
        """See the class.

        Labels are read first, without images; then images are streamed, only from row groups that
        hold a kept product. In this order rows are left out, and counted in ``dropped``:
        ``filtered`` (not in ``filters``), ``over_limit`` (after the first ``limit``),
        ``missing_label`` (attribute or object not known, with ``on_missing: drop``) and
        ``rare_pair`` (of a pair with fewer than ``min_pair_images``).

        Raises:
            FashionProductsError: the data set cannot be had, a column is missing or of another
                type, or an id is null or occurs twice.
        """
        files = find_files(self.source, self.revision)
        groups, dropped = _select_labels(files, self)
        total = sum(len(group.labels) for group in groups)
        return Selection(self.source, _rows(groups, self), total, dropped)

    def hub_repository(self) -> tuple[str, str | None] | None:
        if Path(self.source).expanduser().exists() or not _HUB_NAME.fullmatch(self.source):
            return None
        return self.source, self.revision


def find_files(source: str, revision: str | None) -> list[Path]:
    """The Parquet files of a local folder, or of a data set on the hub (fetched into its cache).

    Args:
        source: a folder with ``data/*.parquet`` or ``*.parquet``, or a data set's name on the hub.
        revision: branch, tag or commit on the hub; None for its newest.

    Raises:
        FashionProductsError: neither is there, with the command that fetches it.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source.startswith((".", "/", "~")) or source.count("/") != 1:
            raise FashionProductsError(
                f"download.fashion_products.source: there is no folder {source}, and a data set "
                "on the hub is named OWNER/NAME."
            )
        folder = _fetch(source, revision)
    files = sorted(folder.glob(FILES)) or sorted(folder.glob("*.parquet"))
    if not files:
        raise FashionProductsError(f"empty data set: {source} holds no {FILES}, nor *.parquet.")
    return files


def _fetch(repository: str, revision: str | None) -> Path:
    # Only here, where it is needed: importing the hub's client takes longer than most stages.
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repository, repo_type="dataset", revision=revision, allow_patterns=[FILES]
            )
        )
    # The client's HTTP library, and with it what it raises, changes with its version.
    except Exception as error:
        pinned = f" --revision {revision}" if revision else ""
        raise FashionProductsError(
            f"download.fashion_products.source: {repository!r} is no local folder, and the hub "
            f"did not give it: {error}\nWhere the hub can be reached, fetch it with\n"
            f'  hf download {repository} --repo-type dataset --include "{FILES}"{pinned}\n'
            "or set source to a local folder that holds its data/*.parquet."
        ) from error


def _select_labels(
    files: Sequence[Path], params: FashionProducts
) -> tuple[list[_RowGroup], dict[str, int]]:
    """The labels to keep, by row group, and how many rows were left out, by reason."""
    dropped = dict.fromkeys(("filtered", "over_limit", "missing_label", "rare_pair"), 0)
    columns = _columns(params)
    labels_only = columns.remove(columns.get_field_index(IMAGE_COLUMN))
    seen: dict[int, Path] = {}
    groups: list[_RowGroup] = []
    for file in files:
        _check_columns(file, columns)
        for number in range(pq.read_metadata(file).num_row_groups):
            labels: dict[int, _Label] = {}
            for row in _read(file, number, labels_only):
                if any(row[name] not in words for name, words in params.filters.items()):
                    dropped["filtered"] += 1
                    continue
                identifier = row[ID_COLUMN]
                _check_id(identifier, file, seen)
                if params.limit is not None and len(seen) > params.limit:
                    dropped["over_limit"] += 1
                    continue
                label = _label(row, file, params)
                if label.attribute is None and params.on_missing == "drop":
                    dropped["missing_label"] += 1
                    continue
                labels[identifier] = label
            groups.append(_RowGroup(file, number, labels))
    pairs = Counter(label for group in groups for label in group.labels.values())
    for group in groups:
        for identifier, label in list(group.labels.items()):
            if label.attribute is not None and pairs[label] < params.min_pair_images:
                dropped["rare_pair"] += 1
                del group.labels[identifier]
    return [group for group in groups if group.labels], dropped


def _columns(params: FashionProducts) -> pa.Schema:
    """The columns that are read, in the types that they are read in."""
    text = [params.attribute, params.object, TITLE_COLUMN, COLOR_COLUMN, *params.filters]
    labels = [(name, pa.string()) for name in dict.fromkeys(text)]
    return pa.schema([(ID_COLUMN, pa.int64()), (IMAGE_COLUMN, IMAGE), *labels])


def _check_columns(file: Path, columns: pa.Schema) -> None:
    found = pq.read_schema(file)
    for field in columns:
        if field.name not in found.names:
            raise FashionProductsError(
                f"{file}: column {field.name!r} is missing; found {', '.join(found.names)}."
            )
        kind = found.field(field.name).type
        if not is_spelling(kind, field.type):
            raise FashionProductsError(
                f"{file}: column {field.name!r} is {kind}, expected {field.type}."
            )


def _read(
    file: Path, group: int, columns: pa.Schema, ids: Collection[int] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a row group; where ``ids`` are given, those alone."""
    with open_parquet(file, _BUFFER_BYTES) as parquet:
        for batch in parquet.iter_batches(_BATCH_ROWS, [group], columns.names, use_threads=False):
            try:
                rows = batch.select(columns.names).cast(columns)
            except pa.ArrowInvalid as error:
                raise FashionProductsError(f"{file}: {error}") from error
            if ids is not None:
                rows = rows.filter(pc.is_in(rows.column(ID_COLUMN), pa.array(ids, pa.int64())))
            yield from rows.to_pylist()


def _check_id(identifier: int | None, file: Path, seen: dict[int, Path]) -> None:
    if identifier is None:
        raise FashionProductsError(f"{file}: a row has no {ID_COLUMN}; every row needs one.")
    if identifier in seen:
        raise FashionProductsError(
            f"image_id 'fashion-{identifier}' occurs twice: in {seen[identifier]} and in {file}; "
            "remove one of the rows."
        )
    seen[identifier] = file


def _label(row: Mapping[str, Any], file: Path, params: FashionProducts) -> _Label:
    words = []
    for column in (params.attribute, params.object):
        text = _known(row[column], params.missing_labels)
        if text is None:
            return _Label(None, None)
        try:
            words.append(dotted(text))
        except ValueError as error:
            raise FashionProductsError(
                f"{file}: {column} of {ID_COLUMN} {row[ID_COLUMN]}: {error}"
            ) from error
    return _Label(*words)


def _rows(groups: Sequence[_RowGroup], params: FashionProducts) -> Iterator[CatalogRow]:
    columns = _columns(params)
    for group in groups:
        for row in _read(group.file, group.number, columns, group.labels):
            identifier = row[ID_COLUMN]
            label = group.labels[identifier]
            image = row[IMAGE_COLUMN] or {}
            image_id = f"fashion-{identifier}"
            color = _known(row[COLOR_COLUMN], params.missing_labels)
            yield CatalogRow(
                image_id=image_id,
                product_id=image_id,
                image=image.get("bytes"),
                path=image.get("path") or f"{identifier}.jpg",
                attribute=label.attribute,
                object=label.object,
                title=_known(row[TITLE_COLUMN], params.missing_labels),
                truth={"color": color.lower() if color else None},
            )


def _known(text: str | None, missing: Sequence[str]) -> str | None:
    """``text`` without surrounding space, or None where it says that nothing is known."""
    text = (text or "").strip()
    return text if text and text not in missing else None
