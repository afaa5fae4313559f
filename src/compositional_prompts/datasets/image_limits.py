"""What decoding and resizing a photo would make, judged from its header before it is made."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image

from compositional_prompts.catalog.images import (
    FORMATS,
    REJECTION_REASONS,
    Checked,
    check_image,
)

TOO_ELONGATED: Final = "too_elongated"

TOO_MUCH_MEMORY: Final = "too_much_memory"

PHOTO_REASONS: Final = (*REJECTION_REASONS, TOO_ELONGATED, TOO_MUCH_MEMORY)
"""Why a photo is set aside, by what it is and by what would be made of it."""

MOST_ELONGATED: Final = 200
"""How many times as long as the shorter side the longer one may be.

Published CLIPs resize the shorter side to 224 to 512 pixels and crop then, so that a photo of
60,000 x 1 pixels would become one of 3 gigapixels. At this limit it is 10 to 52 megapixels.
"""

ALLOWED_BYTES: Final = 12
"""Of memory that decoding may take for each pixel of ``download.max_pixels``: a photo as its file
has it, in RGB, and turned upright, of 4 bytes a pixel each."""

# Measured, the peak while one is decoded, in bytes a pixel: benchmarks/decoding_memory.py.
_LAYERS: Final = 20  # as RGBA, on white, laid on it, and in RGB, beside what the file has
_OWN_BUFFERS: Final = {"WEBP": 17, "AVIF": 12}  # of decoders that hold a frame or two of their own
_WITH_BUFFERS: Final = 32  # transparent, and of such a decoder


def judge_photo(encoded: bytes | None, max_pixels: int) -> Checked:
    """Why a photo cannot enter the catalog, or how large one is that can.

    As :func:`~compositional_prompts.catalog.images.check_image`, of which it takes every reason,
    but first it looks at what would be made of it.

    Args:
        encoded: the bytes of the file; None where they could not be had.
        max_pixels: the largest width times height, in pixels, that is accepted. Of photos that
            take more than :data:`ALLOWED_BYTES` a pixel to decode it is so much less.

    Returns:
        With one of :data:`PHOTO_REASONS`, or None.

    Raises:
        MemoryError: it ran out, which says nothing of the photo.
    """
    reason = _made_too_large(encoded, max_pixels) if encoded else None
    return check_image(encoded, max_pixels) if reason is None else Checked(reason)


def _made_too_large(encoded: bytes, max_pixels: int) -> str | None:
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            width, height = image.size
            needed = _decoding_bytes(image)
    except MemoryError:
        raise
    except Exception:
        return None  # check_image names what is wrong with it
    if width * height > max_pixels or not width * height:
        return None  # its own reason
    if max(width, height) > MOST_ELONGATED * min(width, height):
        return TOO_ELONGATED
    if width * height * needed > ALLOWED_BYTES * max_pixels:
        return TOO_MUCH_MEMORY
    return None


def _decoding_bytes(image: Image.Image) -> int:
    """At the peak, a pixel."""
    buffers = _OWN_BUFFERS.get(image.format or "", 0)
    if image.has_transparency_data:
        return _WITH_BUFFERS if buffers else _LAYERS
    return max(buffers, ALLOWED_BYTES)
