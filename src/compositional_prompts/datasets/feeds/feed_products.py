"""A product of a feed with its variants, and which of their values a photo shows."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, cached_property
from html import unescape
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from compositional_prompts.catalog.truth import SEPARATOR
from compositional_prompts.pipeline.section import Section, Words
from compositional_prompts.prompt.pair import dotted
from compositional_prompts.prompt.text_form import first_spellings, text_form, word_form

Values = Mapping[str, tuple[str, ...]]
"""Values by name, as :func:`plain_name` writes it. One without values is not there."""

PRODUCT_TYPE: Final = "product type"
TAGS: Final = "tags"
TITLE: Final = "title"
DESCRIPTION: Final = "description"
"""Names that every format has a value under, whatever its column is called."""

_LEVELS: Final = ">"
_PREFIXES: Final = ("g:", "pa ")  # of Google's XML, and of WooCommerce's attributes of all products
# "Material (product.metafields.shopify.material)".
_METAFIELD: Final = re.compile(r"\s*\(product\.metafields\..*\)$")
_MARKUP: Final = re.compile(r"<[^>]*>")


@cache
def plain_name(name: str) -> str:
    """A column, option or attribute as it is looked up: ``g:item_group_id`` is ``item group id``.

    Letter case, underscores, prefixes and the address of a metafield do not count.
    """
    plain = word_form(_METAFIELD.sub("", name.casefold()).replace("_", " "))
    for prefix in _PREFIXES:
        plain = plain.removeprefix(prefix)
    return plain


class Photo(NamedTuple):
    """A photo of a product: its address, and the text that stands for it where it is not seen."""

    url: str
    text: str | None = None


class Variant(NamedTuple):
    """What is bought: a product in one colour and size.

    Attributes:
        title: where it has one of its own.
        values: its own.
        photos: addresses of those that show it.
    """

    title: str | None
    values: Values
    photos: Sequence[str]


class Product(NamedTuple):
    """A product as a feed describes it.

    Attributes:
        product_id: what the shop calls it.
        title: None where it has none.
        values: of all its variants.
        ordered: names whose first value says most, as Google's ``Brown/Black`` is mostly brown.
        photos: all of them, each once.
        variants: none where it is sold in one form.
        hidden: why it cannot be seen in the shop; None where it can.
    """

    product_id: str
    title: str | None
    values: Values
    ordered: Collection[str]
    photos: Sequence[Photo]
    variants: Sequence[Variant]
    hidden: str | None

    @property
    def names(self) -> set[str]:
        """The names that it has a value under."""
        return set(self.values).union(*(variant.values for variant in self.variants))


class Found(NamedTuple):
    """What is found of a photo under some names.

    Attributes:
        values: all that is true of it; none where nothing is known.
        ordered: whether the first one says most.
        ambiguous: whether the product has several and nothing says which of them it shows.
    """

    values: Sequence[str]
    ordered: bool = False
    ambiguous: bool = False


class Label(Section):
    """Where a label is looked up in a feed.

    Attributes:
        names: columns, options or attributes, the first that the product has counts; also
            ``product_type``, ``tags``, ``title`` and ``description``, whatever their columns are
            called.
        part: of a value with ``>``, such as ``Shoes > Boots``: the whole, its first or its last
            part.
        words: only these are labels, found as whole words of the values; None: the values are.
    """

    names: Words
    part: Literal["whole", "first", "last"]
    words: Words | None

    @field_validator("names")
    @classmethod
    def _no_blank_name(cls, names: list[str]) -> list[str]:
        if not all(map(plain_name, names)):
            raise ValueError("holds a blank name")
        return names

    @model_validator(mode="after")
    def _texts_need_words(self) -> Label:
        if self.words is None:
            for name in map(plain_name, self.names):
                if name in (TAGS, TITLE, DESCRIPTION):
                    raise ValueError(
                        f"names {name}, which says more than a label: list the words to look for "
                        "in words"
                    )
        return self

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """The names, plainly written."""
        return tuple(map(plain_name, self.names))

    def find(self, product: Product, photo: Photo) -> Found:
        """What a photo shows, by its variants where the product comes in several forms."""
        for name in self.asked:
            lists = map(self._read, _lists(product, photo, name))
            read = first_spellings(lists, lambda words: tuple(map(word_form, words)))
            if len(read) > 1:
                return Found((), ambiguous=True)
            if read and read[0]:
                return Found(read[0], name in product.ordered)
        return Found(())

    def _read(self, values: Iterable[str]) -> list[str]:
        """The labels that values hold, each once."""
        found: list[str] = []
        for value in values:
            text = self._part_of(unescape(_MARKUP.sub(" ", value)))
            if self.words is None:
                found.append(text)
            else:
                found += words_in(text, tuple(self.words))
        return first_spellings(filter(None, found), word_form)

    def _part_of(self, value: str) -> str:
        parts = [" ".join(part.split()) for part in value.split(_LEVELS)]
        parts = [part for part in parts if part] or [""]
        if self.part == "whole":
            return f" {_LEVELS} ".join(parts)
        return parts[0 if self.part == "first" else -1]


class TruthLabel(Label):
    """Where the true words of an attribute group are looked up."""

    group: Annotated[str, Field(min_length=1)]


def _lists(product: Product, photo: Photo, name: str) -> list[tuple[str, ...]]:
    """The values under a name, of each of the variants that a photo may show."""
    own = [variant.values[name] for variant in product.variants if name in variant.values]
    common = product.values.get(name, ())
    if not own:
        return [common]
    showing = [variant for variant in product.variants if photo.url in variant.photos]
    shown = [variant.values[name] for variant in showing if name in variant.values]
    # A product that varies in it lists all that it comes in, of which a photo shows one.
    lists = list(dict.fromkeys(shown or [*own, *((value,) for value in common)]))
    if len(lists) > 1 and photo.text:
        said = set(words_in(photo.text, tuple(value for values in lists for value in values)))
        named = [values for values in lists if said.intersection(values)]
        if len(named) == 1:
            return named
    return lists


def words_in(text: str, words: tuple[str, ...]) -> list[str]:
    """Those of some words that a text has as whole words, in its order, as ``words`` spells them.

    Letter case does not count; ``leather-look`` is not leather, and ``dark brown`` not brown where
    it is a word too.
    """
    pattern, spelled = _pattern(words)
    return [spelled[found] for found in pattern.findall(text_form(text))]


@cache
def _pattern(words: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    spelled = {word_form(word): word for word in reversed(words)}
    longest_first = sorted(spelled, key=lambda word: (-len(word), word))
    each = "|".join(re.escape(word) for word in longest_first if word)
    return re.compile(rf"(?<![\w-])(?:{each or '(?!)'})(?![\w-])"), spelled


class PhotoLabels(NamedTuple):
    """What a feed says of one photo.

    Attributes:
        ambiguous: whether attribute or object are not known because nothing says which of the
            product's the photo shows.
    """

    attribute: str | None
    object: str | None
    truth: dict[str, str | None]
    ambiguous: bool


class LabelReader:
    """Reads labels and truth of photos as the parameters say.

    Attributes:
        found: the fields (``attribute``, ``object``, and groups of truth) with a value anywhere.
    """

    def __init__(
        self,
        attribute: Label | None,
        object_: Label | None,
        truth: Sequence[TruthLabel],
        missing: Collection[str],
    ) -> None:
        """Read photos; ``missing`` are values that mean "not known"."""
        self._attribute, self._object, self._truth = attribute, object_, truth
        self._missing = set(map(word_form, missing))
        self.found: set[str] = set()

    def describe(self, product: Product, photo: Photo) -> PhotoLabels:
        """What is known of a photo. Attribute and object are known together or not at all; where
        no attribute is asked for, the object is the one label."""
        attribute, unsure = self._single("attribute", self._attribute, product, photo)
        object_, open_ = self._single("object", self._object, product, photo)
        if object_ is None or (self._attribute is not None and attribute is None):
            attribute = object_ = None
        truth = {
            one.group: SEPARATOR.join(self._known(one.group, one.find(product, photo))) or None
            for one in self._truth
        }
        return PhotoLabels(attribute, object_, truth, unsure or open_)

    def _single(
        self, field: str, label: Label | None, product: Product, photo: Photo
    ) -> tuple[str | None, bool]:
        """One value, as prompts write it; whether there are several, and it is open which."""
        if label is None:
            return None, False
        found = label.find(product, photo)
        values = self._known(field, found)
        if len(values) > 1 and not found.ordered:
            return None, True
        spaced = values[0].replace("_", " ") if values else ""
        return (dotted(spaced) if spaced.strip() else None), found.ambiguous

    def _known(self, field: str, found: Found) -> list[str]:
        if found.values or found.ambiguous:
            self.found.add(field)
        return [value for value in found.values if word_form(value) not in self._missing]
