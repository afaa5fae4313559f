"""Product photographs in the layout of ``ashraq/fashion-product-images-small`` on the hub.

Kaggle's "Fashion Product Images (Small)" by Param Aggarwal: Parquet files with the columns id,
gender, masterCategory, subCategory, articleType, baseColour, season, year, usage,
productDisplayName and image.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.columns import Columns, TruthColumn
from compositional_prompts.datasets.dataset import Caveat, DataSet, Selection
from compositional_prompts.datasets.hub.hub_data_set import Hub, hub_repository
from compositional_prompts.datasets.hub.parquet_rows import RowFilter
from compositional_prompts.pipeline.section import Base, Positive, Words


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
        """See the class, and :class:`~compositional_prompts.datasets.hub.hub_data_set.Hub`.

        Raises:
            HubError, ColumnError: as that.
        """
        columns = Columns(
            image="image",
            image_id="id",
            product_id=None,
            attribute=self.attribute,
            object=self.object,
            title="productDisplayName",
            truth=[TruthColumn(group="color", column="baseColour")],
        )
        hub = Hub(
            source=self.source,
            revision=self.revision,
            subset=None,
            splits=None,
            keep_splits=False,
            columns=columns,
            filters=[RowFilter(column=name, values=words) for name, words in self.filters.items()],
            min_pair_images=self.min_pair_images,
            missing_labels=self.missing_labels,
            on_missing=self.on_missing,
            limit=self.limit,
        )
        found = hub.select_as(f"download.{self.name}")
        return found._replace(rows=map(_product, found.rows))

    def hub_repository(self) -> tuple[str, str | None] | None:
        return hub_repository(self.source, self.revision)


def _product(row: CatalogRow) -> CatalogRow:
    image_id = f"fashion-{row.image_id}"
    color = row.truth["color"]
    return row._replace(
        image_id=image_id,
        product_id=image_id,
        path=f"{row.image_id}.jpg" if row.path == row.image_id else row.path,
        truth={"color": color.lower() if color else None},
    )
