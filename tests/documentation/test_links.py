"""Links of README and documents lead somewhere: to a file, and to a heading of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from printed_commands import DOCUMENTS, ROOT

LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(path: Path) -> set[str]:
    """The headings of a document, as GitHub makes addresses of them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.replace(" ", "-") for text in words}


@pytest.mark.parametrize("document", [*DOCUMENTS, "docs/one_photo.ipynb"])
def test_links_lead_somewhere(document: str) -> None:
    source = ROOT / document
    for name, anchor in LINK.findall(source.read_text()):
        target = (source.parent / name).resolve() if name else source
        assert target.exists(), f"{document}: {name}"
        assert not anchor or anchor in anchors(target), f"{document}: {name}#{anchor}"
