"""A product feed of Google Merchant Center, as a table or XML: an item a variant, by group.

https://support.google.com/merchants/answer/7052112; the catalogues of other advertisers that took
it over are read alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Final

from compositional_prompts.datasets.feeds.feed_formats import (
    FeedError,
    FeedFormat,
    addresses,
    distinct_photos,
    present,
)
from compositional_prompts.datasets.feeds.feed_products import (
    PRODUCT_TYPE,
    TITLE,
    Photo,
    Product,
    Variant,
)
from compositional_prompts.datasets.feeds.feed_records import Owner, Record

_PHOTOS: Final = ("image link", "additional image link")
_TYPES: Final = ("product type", "google product category")
# "Brown/Black": the main one first, at most two others.
_SEVERAL: Final = ("color", "material")


class GoogleMerchant(FeedFormat):
    name: ClassVar[str] = "google_merchant"
    title: ClassVar[str] = "a feed of Google Merchant Center"
    needs: ClassVar[Sequence[Sequence[str]]] = (("id",), ("image link",))
    columns: ClassVar[Collection[str]] = {
        *("title", "item group id", *_PHOTOS, *_TYPES, *_SEVERAL),
    }
    descriptions: ClassVar[Sequence[str]] = ("description",)

    def owner(self, record: Record, place: str) -> Owner:
        own = record.get("item group id") or record.get("id")
        if own is None:
            raise FeedError(f"{place}: id is empty; every item needs one.")
        return Owner(own)

    def product(self, product_id: str, records: Sequence[Record]) -> Product:
        photos = [
            Photo(url)
            for record in records
            for name in _PHOTOS
            for url in addresses(record.get(name))
        ]
        # Google's own category, where the shop has no type of its own.
        types = next(
            (name for name in _TYPES if any(name in record for record in records)), _TYPES[0]
        )
        return Product(
            product_id=product_id,
            title=next((record["title"] for record in records if "title" in record), None),
            values={},
            ordered=_SEVERAL,
            photos=distinct_photos(photos),
            variants=[_variant(record, types) for record in records],
            hidden=None,
        )


def _variant(record: Record, types: str) -> Variant:
    photos = [url for name in _PHOTOS for url in addresses(record.get(name))]
    values: dict[str, Sequence[str]] = {name: [text] for name, text in record.items()}
    for name in _SEVERAL:
        values[name] = [one.strip() for one in record.get(name, "").split("/")]
    # Its categories may be numbers, which name nothing.
    category = record.get(types, "")
    values[PRODUCT_TYPE] = [] if category.isdecimal() else [category]
    values[TITLE] = [record.get("title", "")]
    return Variant(record.get("title"), present(values), photos)
