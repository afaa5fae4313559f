"""Items of a product feed in XML: RSS 2.0 or Atom, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, ParseError

from compositional_prompts.datasets.feeds.feed_formats import FeedError

_ITEMS: Final = ("item", "entry")
_LISTED: Final = ("additional_image_link", "additional image link")


def read_items(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Every item with its number from 1 on: texts by element, without its namespace.

    Of an element that stands several times the first counts, but photos are listed with commas.
    Memory holds one item. Nothing but the file is read: entities and external references that it
    declares are refused (defusedxml).

    Raises:
        FeedError: it is not well-formed XML, or declares entities.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    number = 0
    parents: list[Element] = []
    try:
        with path.open("rb") as file:
            for event, element in iterparse(file, ("start", "end"), forbid_dtd=True):
                if event == "start":
                    parents.append(element)
                    continue
                parents.pop()
                if _name(element) in _ITEMS:
                    number += 1
                    yield number, _texts(element)
                if parents and not any(_name(parent) in _ITEMS for parent in parents):
                    parents[-1].remove(element)
    except ParseError as error:
        raise FeedError(f"{path}: not XML: {error}.") from error
    except DefusedXmlException as error:
        raise FeedError(
            f"{path}: the XML declares a document type, which feeds do not need and which may make "
            "its reader read other files; remove the DOCTYPE."
        ) from error


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2].casefold()


def _texts(item: Element) -> dict[str, str]:
    found: dict[str, str] = {}
    for element in item:
        name, text = _name(element), "".join(element.itertext()).strip()
        if not text:
            continue
        if name in _LISTED and name in found:
            found[name] += f", {text}"
        else:
            found.setdefault(name, text)
    return found
