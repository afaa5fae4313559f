"""An attribute and an object: the pair that names an image, as prompts write and speak it.

A data set may have one label alone, an object: its pairs have no attribute, all of them, and its
prompts name the object (``A photo of Sandals``). In tables such an attribute is null; in memory it
is :data:`NO_ATTRIBUTE`, so that a pair stays a pair of texts, and sorts and compares as others do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Pair = tuple[str, str]
"""Attribute and object."""

NO_ATTRIBUTE: Final = ""
"""In memory, the attribute of every pair of a data set whose labels are objects alone. It can be
mistaken for none of another: a label is never blank (:func:`dotted`)."""

SEPARATOR = "_"
"""Between the attribute and the object of a pair, as in ``Canvas_Sandals``."""

PREFIX = "A photo of "
"""How every prompt begins; CLIP is asked in lower case."""


def pair_name(attribute: str, object_: str) -> str:
    """The pair as one word: ``Canvas_Sandals``; without an attribute the object: ``Sandals``."""
    return object_ if attribute == NO_ATTRIBUTE else f"{attribute}{SEPARATOR}{object_}"


def original_prompt(attribute: str, object_: str) -> str:
    """The prompt that names a pair and says no more: ``A photo of Canvas_Sandals``.

    Without an attribute: ``A photo of Sandals``.
    """
    return PREFIX + pair_name(attribute, object_)


def spoken_prompt(*names: str) -> str:
    """What CLIP is asked for, zero-shot: ``a photo of canvas sandals``, of names as written."""
    return PREFIX.lower() + " ".join(spoken(name) for name in names if name != NO_ATTRIBUTE)


def label_name(attribute: str | None, object_: str | None) -> str | None:
    """The label of an image as tables have it, as one word; None where it has none."""
    return None if object_ is None else pair_name(attribute or NO_ATTRIBUTE, object_)


def objects_alone(attributes: Iterable[str | None]) -> bool:
    """Whether pairs, one at least, are of objects alone: none of them has an attribute.

    Raises:
        ValueError: some have one and some have none, which no data set may mix.
    """
    with_none = {attribute is None or attribute == NO_ATTRIBUTE for attribute in attributes}
    if len(with_none) > 1:
        raise ValueError(
            "Some pairs have an attribute, and some have none: it must be all or none."
        )
    return with_none == {True}


def dotted(text: str) -> str:
    """An attribute or object as prompts write it: one word, dots for spaces (``Casual.Shoes``).

    Raises:
        ValueError: the text is blank or holds an underscore, which parts attribute from object.
    """
    word = ".".join(text.split())
    if not word:
        raise ValueError("an attribute or object must not be blank.")
    if "_" in word:
        raise ValueError(
            f"{text!r} holds an underscore, which parts attribute from object in a prompt: "
            "write a dot or a hyphen."
        )
    return word


def spoken(name: str) -> str:
    """A label as its words are encoded: lower case, dots as spaces (``Shoes.Flats``)."""
    return name.replace(".", " ").lower()
