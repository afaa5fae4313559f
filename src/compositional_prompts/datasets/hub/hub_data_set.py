"""Any data set of images in the hub's layout, in Parquet: on the hub, or in a local folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import field_validator, model_validator

from compositional_prompts.datasets.columns import Columns, Name
from compositional_prompts.datasets.dataset import Caveat, DataSet, Selection
from compositional_prompts.datasets.hub.hub_layout import find_files
from compositional_prompts.datasets.hub.parquet_rows import RowChoice, RowFilter, select_rows
from compositional_prompts.pipeline.section import Base, Positive, Words, require_distinct

PAIR_SPLITS: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What the splits of data sets are called in the catalog, where they are kept."""

_HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")


class Hub(DataSet):
    """The rows that the parameters keep, with what the columns that they name say."""

    name: ClassVar[str] = "hub"
    caveat: ClassVar[Caveat] = Caveat(
        "The labels of the data set are the truth",
        "Accuracies compare with the labels of whoever published the data set, as they are. How "
        "they were made, and how often they are wrong, its card may say.",
    )
    description: ClassVar[str] = "a data set of images in the layout of the Hugging Face hub"
    licence: ClassVar[str] = "The images are under the terms of whoever published them."

    source: Name
    revision: str | None
    subset: str | None
    splits: Words | None
    keep_splits: bool
    columns: Columns
    filters: list[RowFilter]
    min_pair_images: Positive
    missing_labels: list[str]
    on_missing: Literal["drop", "keep"]
    limit: Positive | None

    @field_validator("splits")
    @classmethod
    def _splits_once(cls, splits: list[str] | None) -> list[str] | None:
        require_distinct(splits or [], "names the split")
        return splits

    @model_validator(mode="after")
    def _names_the_photos(self) -> Hub:
        if self.columns.image is None:
            raise ValueError("columns.image must be the name of the column that holds the photos")
        return self

    def select(self, base: Base) -> Selection:
        """See the class; :func:`~...hub.parquet_rows.select_rows` says what is left out.

        Raises:
            HubError: the data set cannot be had, or is not in the hub's layout.
            ColumnError: a column is missing, or a value is not what it should be.
        """
        return self.select_as(f"download.{self.name}")

    def select_as(self, section: str) -> Selection:
        """As :meth:`select`, of a data set with a ``section`` of its own, for messages."""
        files = find_files(self.source, self.revision, self.subset, self.splits, section)
        choice = RowChoice(
            self.columns,
            self.filters,
            self.min_pair_images,
            self.missing_labels,
            self.on_missing,
            self.limit,
            PAIR_SPLITS if self.keep_splits else None,
        )
        return select_rows(files, choice, self.source)

    def brings_labels(self) -> bool:
        return self.columns.object is not None

    def brings_splits(self) -> bool:
        return self.keep_splits

    def hub_repository(self) -> tuple[str, str | None] | None:
        return hub_repository(self.source, self.revision)


def hub_repository(source: str, revision: str | None) -> tuple[str, str | None] | None:
    """The data set's name on the hub and its revision, where ``source`` is no local folder."""
    if Path(source).expanduser().exists() or not _HUB_NAME.fullmatch(source):
        return None
    return source, revision
