"""The file of a feed: which format it is of, and its rows with the columns that are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from compositional_prompts.datasets.feeds.feed_formats import FeedError, FeedFormat
from compositional_prompts.datasets.feeds.feed_products import DESCRIPTION, plain_name
from compositional_prompts.datasets.feeds.feed_records import Owner, Record
from compositional_prompts.datasets.feeds.google_merchant import GoogleMerchant
from compositional_prompts.datasets.feeds.merchant_xml import read_items
from compositional_prompts.datasets.feeds.shopify import Shopify
from compositional_prompts.datasets.feeds.woocommerce import WooCommerce
from compositional_prompts.files.records.delimited import Delimited

FORMATS: Final[list[type[FeedFormat]]] = [Shopify, WooCommerce, GoogleMerchant]

_MARK: Final = b"\xef\xbb\xbf"
_LOOKED_AT: Final = 4096


class OpenedFeed(NamedTuple):
    """A feed that is being read.

    Attributes:
        format: what its rows mean.
        records: its rows, each with its number and the product that it belongs to.
        kept_out: columns of a table that are not used; None of XML, which has none.
    """

    format: FeedFormat
    records: Iterator[tuple[int, Owner, Record]]
    kept_out: Sequence[str] | None


def open_feed(
    path: Path, name: str, renamed: Mapping[str, str], asked: Collection[str]
) -> OpenedFeed:
    """Find out what a file is, and read it as it is asked for.

    Args:
        path: a table, or XML of Google Merchant.
        name: of the format; ``auto``: that which the header fits.
        renamed: columns of the file, and what they are called in the format.
        asked: plain names that labels are looked up under.

    Raises:
        FeedError: it is of no format or another one, or is XML that cannot be read; on reading on,
            a row is not as expected.
        DelimitedError: it is no delimited text.
    """
    if _is_xml(path):
        if name not in ("auto", GoogleMerchant.name):
            raise FeedError(f"{path} is XML, which download.feed.format {name} is not.")
        return OpenedFeed(
            GoogleMerchant(),
            _records(
                GoogleMerchant(),
                ((number, f"item {number}", texts) for number, texts in read_items(path)),
                path,
                asked,
            ),
            None,
        )
    with path.open("rb") as file:
        header = Delimited(file, str(path)).columns
    columns = _renamed(header, renamed, path)
    chosen = _format(name, columns, path)
    wanted = [column if _is_wanted(column, chosen, asked) else "" for column in columns]
    kept_out = [title for title, column in zip(header, wanted, strict=True) if not column]
    return OpenedFeed(chosen, _records(chosen, _rows(path, wanted), path, asked), kept_out)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, str, dict[str, str]]]:
    with path.open("rb") as file:
        for row in Delimited(file, str(path)).rows():
            yield row.line, f"line {row.line}", _cells(columns, row.cells)


def _records(
    chosen: FeedFormat,
    rows: Iterable[tuple[int, str, Mapping[str, str]]],
    path: Path,
    asked: Collection[str],
) -> Iterator[tuple[int, Owner, Record]]:
    for number, place, texts in rows:
        record = {
            name: text
            for name, text in ((plain_name(name), text.strip()) for name, text in texts.items())
            if text and _is_wanted(name, chosen, asked)
        }
        if record:
            yield number, chosen.owner(record, f"{path}, {place}"), record


def _cells(columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """What a row holds; columns of one name are one list."""
    found: dict[str, str] = {}
    for column, cell in zip(columns, cells, strict=True):
        if column and cell.strip():
            found[column] = f"{found[column]}, {cell.strip()}" if column in found else cell
    return found


def _is_wanted(column: str, chosen: FeedFormat, asked: Collection[str]) -> bool:
    described = DESCRIPTION in asked and column in chosen.descriptions
    return column in asked or chosen.reads(column) or described


def _format(name: str, columns: Sequence[str], path: Path) -> FeedFormat:
    for one in FORMATS:
        if name == one.name or (name == "auto" and one.fits(columns)):
            if not one.fits(columns):
                lacking = next(names for names in one.needs if not set(names) & set(columns))
                raise FeedError(
                    f"{path} is not {one.title}: it has no column {' or '.join(lacking)}. "
                    f"{_found(columns)}"
                )
            return one()
    needs = "; ".join(
        f"{one.title} has {', '.join(' or '.join(names) for names in one.needs)}" for one in FORMATS
    )
    raise FeedError(f"{path} is of no format that is read: {needs}. {_found(columns)}")


def _found(columns: Sequence[str]) -> str:
    return (
        f"Found: {', '.join(columns) or 'nothing'}. Where the header is in another language, "
        "download.feed.columns says what its columns are: {Bilder: Images}."
    )


def _renamed(header: Sequence[str], renamed: Mapping[str, str], path: Path) -> list[str]:
    plain = {plain_name(name): plain_name(other) for name, other in renamed.items()}
    columns = [plain_name(name) for name in header]
    for name in renamed:
        if plain_name(name) not in columns:
            raise FeedError(
                f"download.feed.columns: {path} has no column {name!r}; found "
                f"{', '.join(header) or 'nothing'}."
            )
    return [plain.get(column, column) for column in columns]


def _is_xml(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_LOOKED_AT).removeprefix(_MARK).lstrip().startswith(b"<")
