"""Rows of a feed, product by product, wherever in the file they stand; on disk, not in memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Final, NamedTuple

from compositional_prompts.catalog.schema import CatalogRow

Record = Mapping[str, str]
"""The cells of a row that are not blank, by plain name."""

_TABLES: Final = """
CREATE TABLE records (line INTEGER PRIMARY KEY, own TEXT, alias TEXT, parent TEXT, cells TEXT);
CREATE TABLE photos (
  number INTEGER PRIMARY KEY, image_id TEXT UNIQUE, product_id TEXT, url TEXT,
  attribute TEXT, object TEXT, title TEXT, truth TEXT,
  UNIQUE (product_id, url)
);
"""
_ROWS_OF_PRODUCTS: Final = """
CREATE INDEX owns ON records (own) WHERE parent IS NULL;
CREATE INDEX aliases ON records (alias) WHERE parent IS NULL AND alias IS NOT NULL;
CREATE TABLE placed AS SELECT line, COALESCE(
  (SELECT own FROM records AS p WHERE p.own = r.parent AND p.parent IS NULL LIMIT 1),
  (SELECT own FROM records AS p WHERE p.alias = r.parent AND p.parent IS NULL LIMIT 1),
  r.parent, r.own
) AS product FROM records AS r;
CREATE INDEX products ON placed (product, line);
"""
_BY_PRODUCT: Final = """
SELECT product, line, cells FROM placed
JOIN (SELECT product, MIN(line) AS first FROM placed GROUP BY product) USING (product)
JOIN records USING (line) ORDER BY first, line
"""


class Owner(NamedTuple):
    """Which product a row belongs to.

    Attributes:
        own: its own name.
        alias: another name that rows may know it by.
        parent: the name of the row that it is a variant of.
    """

    own: str
    alias: str | None = None
    parent: str | None = None


class FeedTables:
    """The rows of a feed, and then its photos, in an unnamed file that goes with the object."""

    def __init__(self) -> None:
        """Both are empty."""
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.executescript(_TABLES)
        self._file.execute("BEGIN")

    def add_records(self, records: Iterable[tuple[int, Owner, Record]]) -> int:
        """Take rows, each with its line; how many there were."""
        cursor = self._file.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?)",
            ((line, *owner, json.dumps(record)) for line, owner, record in records),
        )
        return cursor.rowcount if cursor.rowcount > 0 else 0

    def products(self) -> Iterator[tuple[str, list[Record]]]:
        """The rows of each product in their order, products in that of their first rows."""
        for statement in _ROWS_OF_PRODUCTS.split(";"):
            self._file.execute(statement)
        rows: list[Record] = []
        at: str | None = None
        with closing(self._file.execute(_BY_PRODUCT)) as found:
            for product, _, cells in found:
                if rows and product != at:
                    assert at is not None
                    yield at, rows
                    rows = []
                at = product
                rows.append(json.loads(cells))
        if rows:
            assert at is not None
            yield at, rows

    def add_photo(self, row: CatalogRow, otherwise: str) -> bool:
        """Take a photo, and say whether it was not there yet.

        Its ``path`` is its address, and it has no bytes.

        Args:
            row: the photo.
            otherwise: its image_id where the one it has is another photo's; the same for the same
                address and product only.
        """
        values = [row.product_id, row.path, row.attribute, row.object, row.title]
        values.append(json.dumps(dict(row.truth)))
        for image_id in (row.image_id, otherwise):
            done = self._file.execute(
                "INSERT OR IGNORE INTO photos VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
                [image_id, *values],
            )
            if done.rowcount:
                return True
        return False

    def photo_count(self) -> int:
        """How many photos there are."""
        ((count,),) = self._file.execute("SELECT COUNT(*) FROM photos")
        return int(count)

    def photos(self) -> Iterator[CatalogRow]:
        """The photos in the order that they were taken in, without bytes."""
        with closing(self._file.execute("SELECT * FROM photos ORDER BY number")) as found:
            for _, image_id, product_id, url, attribute, object_, title, truth in found:
                yield CatalogRow(
                    image_id=image_id,
                    product_id=product_id,
                    image=None,
                    path=url,
                    attribute=attribute,
                    object=object_,
                    title=title,
                    truth=json.loads(truth),
                )
