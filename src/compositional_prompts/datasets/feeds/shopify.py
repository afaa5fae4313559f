"""The product export of Shopify: a row a variant or photo, most cells in a product's first row.

https://help.shopify.com/en/manual/products/import-export/using-csv, with the headers of 2025 and
those before. ``Image Src`` is the product's next photo and has nothing to do with the variant that
happens to be in its row; ``Variant Image`` is the variant's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar, Final

from compositional_prompts.datasets.feeds.feed_formats import (
    FeedError,
    FeedFormat,
    distinct_photos,
    first,
    listed,
    present,
)
from compositional_prompts.datasets.feeds.feed_products import (
    DESCRIPTION,
    PRODUCT_TYPE,
    TAGS,
    TITLE,
    Photo,
    Product,
    Variant,
)
from compositional_prompts.datasets.feeds.feed_records import Owner, Record

_HANDLE: Final = ("handle", "url handle")
_PHOTO: Final = ("image src", "product image url")
_VARIANT_PHOTO: Final = ("variant image", "variant image url")
_PUBLISHED: Final = ("published", "published on online store")
_OPTION: Final = re.compile(r"option\d+ (?:name|value)")
_OPTIONS: Final = range(1, 10)
# What stands where a product has no options.
_NO_OPTION: Final = ("title", "default title")
_HIDDEN: Final = ("draft", "archived")


class Shopify(FeedFormat):
    name: ClassVar[str] = "shopify"
    title: ClassVar[str] = "a product export of Shopify"
    needs: ClassVar[Sequence[Sequence[str]]] = (_HANDLE, _PHOTO)
    columns: ClassVar[Collection[str]] = {
        *("title", "type", "product category", "tags", "status", "image alt text"),
        *(*_VARIANT_PHOTO, *_PUBLISHED),
    }
    descriptions: ClassVar[Sequence[str]] = ("body (html)", "description")

    @classmethod
    def reads(cls, column: str) -> bool:
        return super().reads(column) or _OPTION.fullmatch(column) is not None

    def owner(self, record: Record, place: str) -> Owner:
        handle = first(record, *_HANDLE)
        if handle is None:
            raise FeedError(f"{place}: the handle is empty; every row needs that of its product.")
        return Owner(handle)

    def product(self, product_id: str, records: Sequence[Record]) -> Product:
        common: dict[str, str] = {}
        for record in records:
            common = {**record, **common}
        photos = [
            Photo(record[name], record.get("image alt text"))
            for record in records
            for name in _PHOTO
            if name in record
        ]
        variants = list(_variants(records, common))
        photos += [Photo(url) for variant in variants for url in variant.photos]
        types = [common[name] for name in ("type", "product category") if name in common]
        values: dict[str, Sequence[str]] = {
            name: _metafield(text) for name, text in common.items() if not _OPTION.fullmatch(name)
        }
        values |= {
            PRODUCT_TYPE: types,
            TAGS: listed(common.get("tags")),
            TITLE: [common.get("title", "")],
            DESCRIPTION: [first(common, *self.descriptions) or ""],
        }
        return Product(
            product_id=product_id,
            title=common.get("title"),
            values=present(values),
            ordered={PRODUCT_TYPE},
            photos=distinct_photos(photos),
            variants=variants,
            hidden=_hidden(common),
        )


def _variants(records: Sequence[Record], common: Mapping[str, str]) -> Iterator[Variant]:
    for record in records:
        values: dict[str, list[str]] = {}
        for number in _OPTIONS:
            # The names stand in the first row only.
            name, value = common.get(f"option{number} name"), record.get(f"option{number} value")
            if name and value and (name.casefold(), value.casefold()) != _NO_OPTION:
                values[name] = [value]
        photo = first(record, *_VARIANT_PHOTO)
        if values or photo:
            yield Variant(None, present(values), [photo] if photo else [])


def _metafield(text: str) -> list[str]:
    """A list in a metafield has semicolons."""
    return [one.strip() for one in text.split(";")]


def _hidden(common: Mapping[str, str]) -> str | None:
    status = common.get("status", "").casefold()
    if status in _HIDDEN:
        return status
    return "unpublished" if (first(common, *_PUBLISHED) or "").casefold() == "false" else None
