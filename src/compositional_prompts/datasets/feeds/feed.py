"""The products that a shop exports: Shopify, WooCommerce, Google Merchant."""

from __future__ import annotations

import hashlib
import logging
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, field_validator, model_validator

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.dataset import Caveat, DataSet, Selection
from compositional_prompts.datasets.feeds.feed_file import OpenedFeed, open_feed
from compositional_prompts.datasets.feeds.feed_formats import FeedError
from compositional_prompts.datasets.feeds.feed_products import (
    Label,
    LabelReader,
    Photo,
    Product,
    TruthLabel,
)
from compositional_prompts.datasets.feeds.feed_records import FeedTables
from compositional_prompts.datasets.feeds.photo_downloads import Fetch, Fetched, PhotoDownloads
from compositional_prompts.datasets.feeds.photo_folder import PhotoFolder
from compositional_prompts.files.downloads import DOWNLOADS
from compositional_prompts.pipeline.section import Base, in_project
from compositional_prompts.prompt.text_form import require_distinct_words

PHOTOS: Final = DOWNLOADS / "photos"
"""Where fetched photos are kept."""

_NAMES_IN_ERROR: Final = 30

logger = logging.getLogger(__name__)


class Feed(DataSet):
    """The photos of a shop's products, with what the shop says of the product, or the variant, that
    they show.

    The ``image_id`` is the product's id and the photo's name: ``boat-shoe/navy-1.jpg``.
    """

    name: ClassVar[str] = "feed"
    caveat: ClassVar[Caveat] = Caveat(
        "A shop's own product data are the truth",
        "Types, colors and materials are those in the shop's export. A photo counts as one of the "
        "variant that the shop shows it with, whatever else is to be seen on it.",
    )
    description: ClassVar[str] = "the product photographs of a shop, by its export"
    licence: ClassVar[str] = "Whose the photographs are, the shop knows."
    grows: ClassVar[bool] = True

    file: Annotated[str, Field(min_length=1)]
    format: Literal["auto", "shopify", "woocommerce", "google_merchant"]
    columns: dict[str, str]
    photos: str | None
    fetch: Fetch
    object: Label | None
    attribute: Label | None
    truth: list[TruthLabel]
    missing_labels: list[str]
    hidden: Literal["drop", "keep"]
    on_missing: Literal["drop", "keep"]

    @field_validator("truth")
    @classmethod
    def _groups_once(cls, truth: list[TruthLabel]) -> list[TruthLabel]:
        require_distinct_words((one.group for one in truth), "names the group")
        return truth

    @model_validator(mode="after")
    def _the_only_label_is_the_object(self) -> Feed:
        if self.attribute is not None and self.object is None:
            raise ValueError(
                "has an attribute and no object; where there is one label only, name it as object"
            )
        return self

    def brings_labels(self) -> bool:
        return self.object is not None

    def files(self) -> list[tuple[str, str]]:
        return [("file", self.file), *([] if self.photos is None else [("photos", self.photos)])]

    def select(self, base: Base) -> Selection:
        """See the class.

        The whole feed is read first, so that what is wrong with it is told before anything is
        fetched. Left out, and counted in ``dropped``, are photos of products that the shop hides
        (``draft``, ``archived``, ``unpublished``; with ``hidden: drop``), those without a label
        (``missing_label``; ``ambiguous_label`` where the product has several and nothing says
        which of them the photo shows; with ``on_missing: drop``), those that another product of
        the same id has too (``repeated``), and products without a photo (``no_photo``).

        Raises:
            FeedError: there is no such file or it is not as expected, or no product has a label.
            DelimitedError: it is no delimited text.
            FolderError: the folder of photos is missing or holds no image.
        """
        path = Path(self.file).expanduser()
        if not path.is_file():
            raise FeedError(
                f"download.feed.file: there is no file {path} (relative paths start at the root of "
                "the project)."
            )
        folder = None if self.photos is None else PhotoFolder(_directory(self.photos))
        labels = [one for one in (self.attribute, self.object, *self.truth) if one is not None]
        asked = {name for label in labels for name in label.asked}
        feed = open_feed(path, self.format, self.columns, asked)
        tables = FeedTables()
        dropped = self._read(feed, path, tables)
        return Selection(
            str(path),
            self._rows(tables, folder),
            tables.photo_count(),
            dropped,
            passed_over=None if folder is None else folder.passed_over,
            columns_kept_out=feed.kept_out,
        )

    def _read(self, feed: OpenedFeed, path: Path, tables: FeedTables) -> dict[str, int]:
        """Take the photos of the feed; how many were left out, by reason."""
        if not tables.add_records(feed.records):
            raise FeedError(f"empty data set: {path} has no products.")
        dropped = Counter(
            dict.fromkeys(
                (
                    *("draft", "archived", "unpublished", "no_photo"),
                    *("missing_label", "ambiguous_label", "repeated"),
                ),
                0,
            )
        )
        reader = LabelReader(self.attribute, self.object, self.truth, self.missing_labels)
        names: Counter[str] = Counter()
        for product_id, records in tables.products():
            product = feed.format.product(product_id, records)
            if not product.photos:
                dropped["no_photo"] += 1
            elif product.hidden is not None and self.hidden == "drop":
                dropped[product.hidden] += len(product.photos)
            else:
                names.update(sorted(product.names))
                for photo in product.photos:
                    self._take(product, photo, reader, tables, dropped)
        if not tables.photo_count() and dropped["no_photo"] == dropped.total():
            raise FeedError(f"empty data set: no product of {path} has a photo.")
        self._check_found(path, reader.found, names)
        return dict(dropped)

    def _take(
        self,
        product: Product,
        photo: Photo,
        reader: LabelReader,
        tables: FeedTables,
        dropped: Counter[str],
    ) -> None:
        labels = reader.describe(product, photo)
        if self.object is not None and labels.object is None and self.on_missing == "drop":
            dropped["ambiguous_label" if labels.ambiguous else "missing_label"] += 1
            return
        own = {v.title for v in product.variants if v.title and photo.url in v.photos}
        name = f"{product.product_id}/{_file_name(photo.url)}"
        digest = hashlib.sha256(f"{product.product_id}\n{photo.url}".encode()).hexdigest()
        new = tables.add_photo(
            CatalogRow(
                image_id=name,
                product_id=product.product_id,
                image=None,
                path=photo.url,
                attribute=labels.attribute,
                object=labels.object,
                title=own.pop() if len(own) == 1 else product.title,
                truth=labels.truth,
            ),
            otherwise=f"{name}~{digest[:16]}",
        )
        dropped["repeated"] += not new

    def _check_found(self, path: Path, found: set[str], names: Mapping[str, int]) -> None:
        """Say which labels no product has: a name is likely misspelt."""
        common = [name for name, _ in Counter(names).most_common(_NAMES_IN_ERROR)]
        for field, label in (("object", self.object), ("attribute", self.attribute)):
            if label is not None and field not in found and names:
                raise FeedError(
                    f"download.feed.{field}: no product of {path} that is shown has any of "
                    f"{', '.join(label.names)}{_of(label)}; products have: {', '.join(common)}."
                )
        for one in self.truth:
            if one.group not in found:
                logger.warning(
                    "warning: download.feed.truth: no product has a %s: it was looked for in %s%s; "
                    "products have: %s",
                    *(one.group, ", ".join(one.names), _of(one), ", ".join(common)),
                )

    def _rows(self, tables: FeedTables, folder: PhotoFolder | None) -> Iterator[CatalogRow]:
        """The photos with their bytes, which are in memory one at a time."""
        found: Iterable[tuple[CatalogRow, Fetched]]
        if folder is None:
            downloads = PhotoDownloads(in_project(PHOTOS), self.fetch)
            found = downloads.fetch(tables.photos(), lambda row: row.path)
        else:
            found = ((row, folder.find(row.path)) for row in tables.photos())
        for row, (path, reason) in found:
            if path is None:
                yield row._replace(rejection=reason)
                continue
            try:
                yield row._replace(image=path.read_bytes())
            except OSError:
                yield row


def _directory(photos: str) -> Path:
    folder = Path(photos).expanduser()
    if not folder.is_dir():
        raise FeedError(f"download.feed.photos: there is no directory {folder}.")
    return folder


def _file_name(url: str) -> str:
    try:
        path = urllib.parse.urlsplit(url).path
    except ValueError:
        path = url
    return path.rstrip("/").rpartition("/")[2] or "photo"


def _of(label: Label) -> str:
    return "" if label.words is None else f" with one of {', '.join(label.words)}"
