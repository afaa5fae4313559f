"""What a data set is to everything else: its parameters, its rows, and what is said of it.

One class a data set, in a module of its own, registered in one line of
:mod:`~compositional_prompts.datasets.registry`. Nothing else knows it by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.pipeline.section import Base, Section


class ListedPair(NamedTuple):
    """A pair that a data set lists, and its split: train where training sees it."""

    attribute: str
    object: str
    split: str


class Selection(NamedTuple):
    """What a data set offers: its rows, read as they are asked for.

    Attributes:
        source: what the rows come from, for messages.
        rows: the images and labels, in a stable order.
        total: the number of rows, where it is known beforehand.
        dropped: how many rows the data set's parameters left out, by reason.
        pairs: the closed world of a data set that brings its own split, each pair once.
        passed_over: how many files of a searched folder are no images, by extension; None where
            no folder was searched.
        columns_kept_out: the columns of a table that the parameters do not name; None where no
            table was read.
        further_captions: how many captions are not used, since their image has one already; None
            where no captions were looked for.
    """

    source: str
    rows: Iterator[CatalogRow]
    total: int | None
    dropped: Mapping[str, int]
    pairs: Sequence[ListedPair] = ()
    passed_over: Mapping[str, int] | None = None
    columns_kept_out: Sequence[str] | None = None
    further_captions: int | None = None


class Caveat(NamedTuple):
    """What a reader must know before trusting figures: a heading, and a sentence or two."""

    heading: str
    text: str


class DataSet(Section, ABC):
    """A data set; its fields are its section of ``params.yaml``, under ``download``.

    Attributes:
        name: of the section, and in ``download.dataset``.
        caveat: what the report says of figures on it.
        description: what a model card calls it, after "Data:".
        licence: a sentence on the terms it comes under, for a model card.
        generated: whether nothing of others is in it.
        grows: whether photos are added to it with time, so that splits must hold still.
    """

    name: ClassVar[str]
    caveat: ClassVar[Caveat]
    description: ClassVar[str]
    licence: ClassVar[str]
    generated: ClassVar[bool] = False
    grows: ClassVar[bool] = False

    @abstractmethod
    def select(self, base: Base) -> Selection:
        """Its rows, as the parameters say. Images are not decoded: ingestion does that.

        Raises:
            ValueError: a parameter, or the data, is not as expected; names it and the remedy.
        """

    def brings_labels(self) -> bool:
        """Whether an image may have an attribute and an object."""
        return True

    def brings_splits(self) -> bool:
        """Whether every image has a ``pair_split``."""
        return False

    def files(self) -> list[tuple[str, str]]:
        """The parameters that name files or folders of the user's, and these."""
        return []

    def hub_repository(self) -> tuple[str, str | None] | None:
        """Its name on the hub and the revision pinned, if that is where it was taken from."""
        return None
