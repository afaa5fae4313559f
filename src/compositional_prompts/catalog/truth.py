"""Truth of which several words may be right: ``Leather;Suede``.

A truth column of the catalog is one string. A shoe of leather and suede has both materials, and a
description that names either is right: so the words stand side by side, and whoever judges counts
any of them.
"""

from __future__ import annotations

from typing import Final

SEPARATOR: Final = ";"
"""Between the words that are true, as in UT-Zap50K's ``meta-data.csv``."""


def true_words(truth: str | None) -> list[str]:
    """The words that are true, each once, without outer space; none where nothing is known."""
    words = (word.strip() for word in (truth or "").split(SEPARATOR))
    return list(dict.fromkeys(word for word in words if word))
