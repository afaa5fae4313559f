"""Product photographs in the layout of ``ashraq/fashion-product-images-small`` on the hub.

Kaggle's "Fashion Product Images (Small)" by Param Aggarwal: Parquet files with the columns id,
gender, masterCategory, subCategory, articleType, baseColour, season, year, usage,
productDisplayName and image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from compositional_prompts.catalog.schema import IMAGE, CatalogRow
from compositional_prompts.datasets.ingestion import Selection
from compositional_prompts.datasets.parameters import FashionProductsDataset
from compositional_prompts.prompt.pair import dotted

ID_COLUMN: Final = "id"
TITLE_COLUMN: Final = "productDisplayName"
COLOR_COLUMN: Final = "baseColour"
IMAGE_COLUMN: Final = "image"
FILES: Final = "data/*.parquet"

# Images are read a little at a time, never a whole row group of them.
_SCAN: Final = {
    "batch_size": 64,
    "batch_readahead": 0,
    "fragment_readahead": 0,
    "use_threads": False,
    "fragment_scan_options": pds.ParquetFragmentScanOptions(
        use_buffered_stream=True, pre_buffer=False
    ),
}


class FashionProductsError(ValueError):
    """The data set cannot be had, or is not in the expected layout."""


class _Label(NamedTuple):
    """Attribute and object of one kept image; None for both where they are not known."""

    attribute: str | None
    object: str | None


class _RowGroup(NamedTuple):
    """One row group of a file and the labels of the rows kept from it, by id."""

    file: Path
    fragment: pds.ParquetFileFragment
    labels: dict[int, _Label]


def select_products(params: FashionProductsDataset) -> Selection:
    """The products that the parameters keep, with attribute, object and colour from the shop.

    Labels are read first, without images; then images are streamed, only from row groups that
    hold a kept product. In this order rows are left out, and counted in ``dropped``:
    ``filtered`` (not in ``filters``), ``over_limit`` (after the first ``limit``),
    ``missing_label`` (attribute or object not known, with ``on_missing: drop``) and ``rare_pair``
    (of a pair with fewer than ``min_pair_images``).

    Raises:
        FashionProductsError: the data set cannot be had, a column is missing or of another type,
            or an id is null or occurs twice.
    """
    files = find_files(params.source, params.revision)
    groups, dropped = _select_labels(files, params)
    total = sum(len(group.labels) for group in groups)
    return Selection(params.source, _rows(groups, params), total, dropped)


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
    files: Sequence[Path], params: FashionProductsDataset
) -> tuple[list[_RowGroup], dict[str, int]]:
    """The labels to keep, by row group, and how many rows were left out, by reason."""
    dropped = dict.fromkeys(("filtered", "over_limit", "missing_label", "rare_pair"), 0)
    row_filter = _row_filter(params)
    columns = [ID_COLUMN, params.attribute, params.object]
    seen: dict[int, Path] = {}
    groups: list[_RowGroup] = []
    for file in files:
        _check_columns(file, params)
        (fragment,) = pds.dataset(file, format="parquet").get_fragments()
        matched = 0
        for part in fragment.split_by_row_group(row_filter):
            table = part.to_table(columns=columns, filter=row_filter)
            matched += table.num_rows
            labels: dict[int, _Label] = {}
            for identifier, attribute, object_ in zip(
                *(table.column(name).to_pylist() for name in columns), strict=True
            ):
                _check_id(identifier, file, seen)
                if params.limit is not None and len(seen) > params.limit:
                    dropped["over_limit"] += 1
                    continue
                label = _label(attribute, object_, file, identifier, params)
                if label.attribute is None and params.on_missing == "drop":
                    dropped["missing_label"] += 1
                    continue
                labels[identifier] = label
            groups.append(_RowGroup(file, part, labels))
        dropped["filtered"] += pq.read_metadata(file).num_rows - matched
    pairs = Counter(label for group in groups for label in group.labels.values())
    for group in groups:
        for identifier, label in list(group.labels.items()):
            if label.attribute is not None and pairs[label] < params.min_pair_images:
                dropped["rare_pair"] += 1
                del group.labels[identifier]
    return [group for group in groups if group.labels], dropped


def _check_columns(file: Path, params: FashionProductsDataset) -> None:
    schema = pq.read_schema(file)
    text = [params.attribute, params.object, TITLE_COLUMN, COLOR_COLUMN, *params.filters]
    for name in (ID_COLUMN, IMAGE_COLUMN, *text):
        if name not in schema.names:
            raise FashionProductsError(
                f"{file}: column {name!r} is missing; found {', '.join(schema.names)}."
            )
        kind = schema.field(name).type
        if name == ID_COLUMN:
            expected, right = "an integer", pa.types.is_integer(kind)
        elif name == IMAGE_COLUMN:
            expected, right = str(IMAGE), kind == IMAGE
        else:
            expected = "a string"
            right = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not right:
            raise FashionProductsError(f"{file}: column {name!r} is {kind}, expected {expected}.")


def _row_filter(params: FashionProductsDataset) -> pc.Expression:
    """``filters`` as a predicate, which also skips row groups by their statistics."""
    return reduce(
        and_,
        (pc.field(column).isin(values) for column, values in params.filters.items()),
        pc.scalar(True),
    )


def _check_id(identifier: int | None, file: Path, seen: dict[int, Path]) -> None:
    if identifier is None:
        raise FashionProductsError(f"{file}: a row has no {ID_COLUMN}; every row needs one.")
    if identifier in seen:
        raise FashionProductsError(
            f"image_id 'fashion-{identifier}' occurs twice: in {seen[identifier]} and in {file}; "
            "remove one of the rows."
        )
    seen[identifier] = file


def _label(
    attribute: str | None,
    object_: str | None,
    file: Path,
    identifier: int,
    params: FashionProductsDataset,
) -> _Label:
    words = []
    for column, text in ((params.attribute, attribute), (params.object, object_)):
        text = _known(text, params.missing_labels)
        if text is None:
            return _Label(None, None)
        try:
            words.append(dotted(text))
        except ValueError as error:
            raise FashionProductsError(
                f"{file}: {column} of {ID_COLUMN} {identifier}: {error}"
            ) from error
    return _Label(*words)


def _rows(groups: Sequence[_RowGroup], params: FashionProductsDataset) -> Iterator[CatalogRow]:
    row_filter = _row_filter(params)
    columns = [ID_COLUMN, TITLE_COLUMN, COLOR_COLUMN, IMAGE_COLUMN]
    for group in groups:
        kept = row_filter & pc.field(ID_COLUMN).isin(list(group.labels))
        for batch in group.fragment.to_batches(columns=columns, filter=kept, **_SCAN):
            for row in batch.to_pylist():
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
