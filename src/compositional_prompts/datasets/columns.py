"""What the columns of somebody's table mean: one mapping, for every data set that comes as a table.

A record is a row as its reader gives it: values by column. What it says of an image is read here
alike, whether the table is Parquet of the hub, CSV beside a folder, or JSON in a tar.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, NamedTuple

from pydantic import Field, field_validator, model_validator

from compositional_prompts.catalog.truth import SEPARATOR
from compositional_prompts.pipeline.section import Section
from compositional_prompts.prompt.pair import dotted
from compositional_prompts.prompt.text_form import require_distinct_words, word_form

Name = Annotated[str, Field(min_length=1)]

NO_CLASS: Final = -1
"""The number of a class that is not known, as data sets of the hub write it."""

_KINDS: Final = {"dict": "a group of values", "list": "a list"}


class ColumnError(ValueError):
    """A table lacks a column that the parameters name, or a value in it is no value of its kind."""


class TruthColumn(Section):
    """The column that holds the true words of an attribute group.

    A list of these, and no mapping of groups to columns, since DVC merges mappings.
    """

    group: Name
    column: Name


class Columns(Section):
    """Which column is what; None where the table has none of the kind.

    ``object`` is the label of a data set that has one only, and both are those of one that has two.
    """

    image: Name | None
    image_id: Name | None
    product_id: Name | None
    attribute: Name | None
    object: Name | None
    title: Name | None
    truth: list[TruthColumn]

    @field_validator("truth")
    @classmethod
    def _groups_once(cls, truth: list[TruthColumn]) -> list[TruthColumn]:
        require_distinct_words((one.group for one in truth), "names the group")
        return truth

    @model_validator(mode="after")
    def _the_only_label_is_the_object(self) -> Columns:
        if self.attribute is not None and self.object is None:
            raise ValueError(
                "has an attribute and no object; where there is one label only, name it as object"
            )
        return self

    @property
    def described(self) -> list[str]:
        """The columns that say something of an image, each once, in the order of the fields."""
        named = [self.image_id, self.product_id, self.attribute, self.object, self.title]
        named += [one.column for one in self.truth]
        return list(dict.fromkeys(name for name in named if name is not None))

    def require(self, found: Collection[str], source: str) -> None:
        """Raise :class:`ColumnError` naming the first column that ``source`` lacks."""
        for name in filter(None, (*self.described, self.image)):
            if name not in found:
                raise ColumnError(missing_column(name, found, source))

    def kept_out(self, found: Iterable[str]) -> list[str]:
        """The columns of a table that no field names."""
        named = {*self.described, self.image}
        return [name for name in found if name not in named]


def missing_column(name: str, found: Iterable[str], source: str) -> str:
    """What is said where ``source`` has no column ``name``, but those ``found``."""
    return f"{source}: column {name!r} is missing; found {', '.join(found) or 'none'}."


class Described(NamedTuple):
    """What a record says of its image; None where it says nothing.

    Attributes:
        attribute: None also where the mapping has no attribute: one label, the object, is enough.
            Where it has both, they are known together or not at all.
    """

    product_id: str | None
    attribute: str | None
    object: str | None
    title: str | None
    truth: Mapping[str, str | None]


class ColumnReader:
    """Reads records by the mapping."""

    def __init__(
        self,
        columns: Columns,
        missing: Collection[str],
        classes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Read records.

        Args:
            columns: which column is what.
            missing: ``missing_labels``: values that mean "not known", in any case. Blank ones do
                by themselves.
            classes: by column, the names of the classes that its numbers stand for. Their
                underscores are spaces (``aquarium_fish``).
        """
        self._columns = columns
        self._missing = frozenset(map(word_form, missing))
        self._classes = {
            column: [name.replace("_", " ") for name in names]
            for column, names in (classes or {}).items()
        }
        self._labels: dict[str, str] = {}

    def describe(self, record: Mapping[str, Any], place: str) -> Described:
        """What a record says of its image.

        Labels are written as prompts write them, with dots for spaces and for underscores
        (``Navy.Blue``); all else as it stands, without outer space. A list of values is the
        several true words of a group.

        Args:
            record: values by column; a column that is not there is one without a value.
            place: of the record, for messages: a file and a row.

        Raises:
            ColumnError: a value is no text, number or date, or the number of no class.
        """
        columns = self._columns
        attribute, object_ = self.labels(record, place)
        return Described(
            self.text(record, columns.product_id, place),
            attribute,
            object_,
            self.text(record, columns.title, place),
            {one.group: self._words(record, one.column, place) for one in columns.truth},
        )

    def labels(self, record: Mapping[str, Any], place: str) -> tuple[str | None, str | None]:
        """Attribute and object alone of :meth:`describe`.

        Raises:
            ColumnError: as that.
        """
        attribute = self.label(record, self._columns.attribute, place)
        object_ = self.label(record, self._columns.object, place)
        if object_ is None or (self._columns.attribute is not None and attribute is None):
            return None, None
        return attribute, object_

    def image_id(self, record: Mapping[str, Any], place: str) -> str | None:
        """What a record calls its image; None where the mapping has no column for it.

        Raises:
            ColumnError: there is one, and it has no value in this record.
        """
        column = self._columns.image_id
        if column is None:
            return None
        # "Not known" is said of labels; a name may be any word.
        text = _written(record.get(column), column, place)
        if text is None:
            raise ColumnError(f"{place}: a row has no {column}; every row needs one.")
        return text

    def text(self, record: Mapping[str, Any], column: str | None, place: str) -> str | None:
        """The value of a column as text, without outer space; None where it is not known.

        Raises:
            ColumnError: as :meth:`describe`.
        """
        return None if column is None else self._known(record.get(column), column, place)

    def _known(self, value: Any, column: str, place: str) -> str | None:
        classes = self._classes.get(column)
        if classes is not None and isinstance(value, int):
            if value == NO_CLASS:
                return None
            if not 0 <= value < len(classes):
                raise ColumnError(
                    f"{place}: column {column!r} is {value}, expected the number of one of its "
                    f"{len(classes)} classes, from 0 on, or {NO_CLASS}."
                )
            value = classes[value]
        text = _written(value, column, place)
        return None if text is None or word_form(text) in self._missing else text

    def label(self, record: Mapping[str, Any], column: str | None, place: str) -> str | None:
        """The value of a column as prompts write it; None where it is not known.

        Raises:
            ColumnError: as :meth:`describe`.
        """
        text = self.text(record, column, place)
        if text is None:
            return None
        if text not in self._labels:
            spaced = text.replace("_", " ")
            self._labels[text] = dotted(spaced) if spaced.strip() else ""
        return self._labels[text] or None

    def _words(self, record: Mapping[str, Any], column: str, place: str) -> str | None:
        value = record.get(column)
        values = value if isinstance(value, list) else [value]
        known = [self._known(one, column, place) for one in values]
        return SEPARATOR.join(word for word in known if word is not None) or None


def _written(value: Any, column: str, place: str) -> str | None:
    """A value as text, without outer space; None where there is none."""
    if isinstance(value, str):
        return value.strip() or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        # pandas makes floats of whole numbers where one is missing.
        return str(int(value))
    if isinstance(value, int | float | Decimal | date | datetime):
        return str(value)
    kind = type(value).__name__
    raise ColumnError(
        f"{place}: column {column!r} holds {_KINDS.get(kind, kind)}, expected text, a number or a "
        "date."
    )
