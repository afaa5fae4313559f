"""The product export of WooCommerce: a row a product and a row a variation, which names its parent.

https://github.com/woocommerce/woocommerce/wiki/Product-CSV-Import-Schema
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Final

from compositional_prompts.datasets.feeds.feed_formats import (
    FeedError,
    FeedFormat,
    addresses,
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
    plain_name,
)
from compositional_prompts.datasets.feeds.feed_records import Owner, Record

_ATTRIBUTE: Final = re.compile(r"attribute (\d+) name")
_ATTRIBUTE_CELL: Final = re.compile(r"attribute \d+ (?:name|value\(s\))")
_HIDDEN: Final = {"0": "unpublished", "-1": "draft"}


class WooCommerce(FeedFormat):
    name: ClassVar[str] = "woocommerce"
    title: ClassVar[str] = "a product export of WooCommerce"
    needs: ClassVar[Sequence[Sequence[str]]] = (("sku", "id"), ("images",), ("categories", "type"))
    columns: ClassVar[Collection[str]] = {"id", "type", "name", "published", "tags", "parent"}
    descriptions: ClassVar[Sequence[str]] = ("short description", "description")

    @classmethod
    def reads(cls, column: str) -> bool:
        return super().reads(column) or _ATTRIBUTE_CELL.fullmatch(column) is not None

    def owner(self, record: Record, place: str) -> Owner:
        sku = record.get("sku")
        own = f"id:{record['id']}" if "id" in record else sku
        if own is None:
            raise FeedError(f"{place}: ID and SKU are empty; every row needs one of them.")
        return Owner(own, sku, record.get("parent"))

    def product(self, product_id: str, records: Sequence[Record]) -> Product:
        parents = [record for record in records if "parent" not in record]
        parent = parents[0] if parents else {}
        variants = [
            Variant(
                record.get("name"), present(_attributes(record)), addresses(record.get("images"))
            )
            for record in records
            if "parent" in record
        ]
        attributes = present(_attributes(parent))
        if "variable" in parent.get("type", "").casefold() and not variants:
            # It comes in each of several values, and its variations are not in the file.
            several = {name: values for name, values in attributes.items() if len(values) > 1}
            variants = [
                Variant(None, {name: (value,)}, ())
                for name, values in several.items()
                for value in values
            ]
        photos = [Photo(url) for record in records for url in addresses(record.get("images"))]
        # The deepest first: "Shoes, Shoes > Slippers" are slippers.
        categories = sorted(
            (one for record in records for one in listed(record.get("categories"))),
            key=lambda category: -category.count(">"),
        )
        others = {name: [text] for name, text in parent.items() if not _is_structure(name)}
        values: dict[str, Sequence[str]] = {
            **others,
            **attributes,
            PRODUCT_TYPE: categories,
            TAGS: listed(parent.get("tags")),
            TITLE: [parent.get("name", "")],
            DESCRIPTION: [parent[name] for name in self.descriptions if name in parent],
        }
        return Product(
            product_id=first(parent, "sku") or product_id,
            title=parent.get("name"),
            values=present(values),
            ordered={PRODUCT_TYPE},
            photos=distinct_photos(photos),
            variants=variants,
            hidden=_HIDDEN.get(parent.get("published", "")),
        )


def _is_structure(name: str) -> bool:
    return _ATTRIBUTE_CELL.fullmatch(name) is not None


def _attributes(record: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for column, name in record.items():
        match = _ATTRIBUTE.fullmatch(column)
        if match:
            found[plain_name(name)] = listed(record.get(f"attribute {match[1]} value(s)"))
    return found
