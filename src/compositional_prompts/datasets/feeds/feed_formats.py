"""What the formats of feeds have in common, and which one a header is of."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar, Final

from compositional_prompts.datasets.feeds.feed_products import Photo, Product, plain_name
from compositional_prompts.datasets.feeds.feed_records import Owner, Record

# Between addresses in a cell: a bar, a line end, or a comma that the next one follows. A comma
# inside an address is followed by neither space nor scheme.
_BETWEEN_ADDRESSES: Final = re.compile(r"\s*(?:[|\r\n]|,(?=\s|https?://|//|$))\s*", re.IGNORECASE)
_BETWEEN_NAMES: Final = re.compile(r"\s*[|\r\n,]\s*")
# WooCommerce escapes a comma that is none between values.
_BETWEEN_VALUES: Final = re.compile(r"(?<!\\),")


class FeedError(ValueError):
    """A feed is not as expected."""


class FeedFormat(ABC):
    """A format: its columns, and how its rows become products.

    Attributes:
        name: in ``params.yaml``.
        title: for people.
        needs: columns, plainly written; of each group one must be there.
        columns: those that it is read by, plainly written, beside ``needs``.
        descriptions: those that describe a product at length, read only where they are asked for.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[Sequence[Sequence[str]]]
    columns: ClassVar[Collection[str]]
    descriptions: ClassVar[Sequence[str]]

    @classmethod
    def fits(cls, header: Collection[str]) -> bool:
        """Whether a header, plainly written, is of this format."""
        return all(any(name in header for name in names) for names in cls.needs)

    @classmethod
    def reads(cls, column: str) -> bool:
        """Whether a column, plainly written, is one that it is read by."""
        return column in cls.columns or any(column in names for names in cls.needs)

    @abstractmethod
    def owner(self, record: Record, place: str) -> Owner:
        """Which product a row belongs to.

        Raises:
            FeedError: the row does not say.
        """

    @abstractmethod
    def product(self, product_id: str, records: Sequence[Record]) -> Product:
        """The product of some rows, of which there is at least one."""


def addresses(cell: str | None) -> list[str]:
    """The addresses, or names of files, in a cell, each once."""
    text = (cell or "").strip()
    pattern = _BETWEEN_ADDRESSES if "//" in text else _BETWEEN_NAMES
    found = (_with_scheme(one.strip()) for one in pattern.split(text))
    return list(dict.fromkeys(one for one in found if one))


def _with_scheme(address: str) -> str:
    return f"https:{address}" if address.startswith("//") else address


def listed(cell: str | None) -> tuple[str, ...]:
    """The values of a cell, between commas, each once."""
    values = (one.replace("\\,", ",").strip() for one in _BETWEEN_VALUES.split(cell or ""))
    return tuple(dict.fromkeys(value for value in values if value))


def first(record: Record, *columns: str) -> str | None:
    """The value of the first of some columns that has one."""
    return next((record[name] for name in columns if name in record), None)


def distinct_photos(photos: Iterable[Photo]) -> list[Photo]:
    """Photos by address, each once, with the first text that one has."""
    found: dict[str, Photo] = {}
    for photo in photos:
        before = found.get(photo.url)
        if before is None or (before.text is None and photo.text is not None):
            found[photo.url] = photo
    return list(found.values())


def present(values: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Values by plain name, without blank ones and names that have none."""
    found = {plain_name(name): tuple(filter(None, texts)) for name, texts in values.items()}
    return {name: texts for name, texts in found.items() if name and texts}
