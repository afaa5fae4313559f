"""An attribute and an object: the pair that names an image, as prompts write and speak it."""

from __future__ import annotations

Pair = tuple[str, str]
"""Attribute and object."""

SEPARATOR = "_"
"""Between the attribute and the object of a pair, as in ``Canvas_Sandals``."""

PREFIX = "A photo of "
"""How every prompt begins; CLIP is asked in lower case."""


def pair_name(attribute: str, object_: str) -> str:
    """The pair as one word: ``Canvas_Sandals``."""
    return f"{attribute}{SEPARATOR}{object_}"


def original_prompt(attribute: str, object_: str) -> str:
    """The prompt that names a pair and says no more: ``A photo of Canvas_Sandals``."""
    return PREFIX + pair_name(attribute, object_)


def spoken_prompt(*names: str) -> str:
    """What CLIP is asked for, zero-shot: ``a photo of canvas sandals``, of names as written."""
    return PREFIX.lower() + " ".join(spoken(name) for name in names)


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
