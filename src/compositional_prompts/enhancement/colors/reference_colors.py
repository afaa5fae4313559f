"""The RGB value of a colour word: given by parameter, or what people call that name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import CSS4_COLORS, XKCD_COLORS, to_rgb
from numpy.typing import NDArray

from compositional_prompts.enhancement.parameters import ReferenceColor
from compositional_prompts.prompt.text_form import word_form


def _look_up(word: str) -> list[int] | None:
    # The XKCD survey (2010) first: its "brown" and "green" are what most people mean by them,
    # while CSS has a brick red and a dark green.
    name = word_form(word)
    value = XKCD_COLORS.get(f"xkcd:{name}") or CSS4_COLORS.get(name.replace(" ", ""))
    return None if value is None else [round(level * 255) for level in to_rgb(value)]


def reference_colors(
    words: Sequence[str], overrides: Sequence[ReferenceColor]
) -> dict[str, NDArray[np.uint8]] | None:
    """RGB values for the words of a group that are colours, in the order of ``words``.

    Names are looked up among ``overrides``, the XKCD colour survey's and CSS's, without regard
    to case. Words without a value are left out. The group is one of colours only where more than
    half of its words are: "leather" and "straw" are XKCD colours too.

    Args:
        words: the group's vocabulary.
        overrides: words and three levels in 0..255 of each.

    Returns:
        Word to uint8 ``[3]``, or None where the group is not one of colours.
    """
    given = {word_form(color.word): color.rgb for color in overrides}
    values = {word: given.get(word_form(word)) or _look_up(word) for word in words}
    found = {word: np.array(rgb, dtype=np.uint8) for word, rgb in values.items() if rgb is not None}
    return found if 2 * len(found) > len(words) else None
