"""What of the shape of the BLIP-2 that is pretrained here bounds its captions; imports nothing."""

from __future__ import annotations

from typing import Final

MICRO_QUERIES: Final = 16
"""Query tokens: what stands for the image before a caption."""

MICRO_POSITIONS: Final = 128
"""Positions of the language model, for them and the tokens of a caption."""
