"""Encoded images: judging one before it enters the catalog, and the one way to decode it after."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from compositional_prompts.files.outputs import UnusableItemError

# Pillow's own limit against decompression bombs is one global number, part of it a mere warning.
# ``rejection_reason`` applies ``download.max_pixels`` in its place, before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# Its plug-ins log tag by tag what they make of a damaged file; the reason is what we report.
logging.getLogger("PIL").setLevel(logging.ERROR)

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""What is read. Anything else Pillow knows is refused: some of it runs other programs (EPS)."""

REJECTION_REASONS: Final = (
    "inaccessible",
    "empty_file",
    "unreadable",
    "truncated",
    "corrupt",
    "too_many_pixels",
    "unsupported_mode",
)
"""Why an image is set aside; the keys of ``rejected`` in ``metrics/download.json``."""

_ORIENTATION_TAG: Final = 0x0112
# EXIF 2.32, table 6: what turns the stored pixels upright, by the value of the tag.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# How Pillow widens or narrows the pixels of a PNG, by its raw mode, while it leaves the colour that
# stands for transparent as the file has it. Of 16 bits only the upper 8 are left to compare.
_WIDENED: Final[dict[str, Callable[[int], int]]] = {
    "L;2": lambda value: value * 85,
    "L;4": lambda value: value * 17,
    "RGB;16B": lambda value: value >> 8,
}


class UndecodableImageError(UnusableItemError):
    """The bytes are no image that can be decoded."""


class UnsupportedModeError(UndecodableImageError):
    """The pixels are 32-bit integers or floats, which have no defined white."""


def decode_rgb(encoded: bytes) -> Image.Image:
    """Decode one image of the catalog, as every reader of it must.

    The first frame, turned upright as its EXIF orientation says, transparency laid on white, 16
    bits a channel scaled to 8. Colour profiles are not applied.

    Returns:
        An image of mode ``RGB``, 8 bits a channel.

    Raises:
        UnsupportedModeError: the pixels are 32-bit integers or floats.
        UndecodableImageError: Pillow cannot decode it: :func:`rejection_reason` rejects it.
        MemoryError: it ran out, which says nothing of the image.
    """
    try:
        return _decoded(encoded)
    except UnsupportedModeError:
        raise
    except Exception as error:
        _raise_lack_of_memory(error)
        raise UndecodableImageError(
            f"the image cannot be decoded ({type(error).__name__}: {error})."
        ) from error


def _decoded(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        transparent = _transparent_colour(image)
        image.load()
        # Read after loading: formats that turn themselves upright (TIFF) then drop the tag.
        orientation = _orientation(image)
        rgb = _on_white(image, transparent)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


class Checked(NamedTuple):
    """What :func:`check_image` finds.

    Attributes:
        reason: one of :data:`REJECTION_REASONS`, or None for an image that can enter the catalog.
        width: of the upright image in pixels; 0 where it is rejected.
        height: as ``width``.
    """

    reason: str | None
    width: int = 0
    height: int = 0


def rejection_reason(encoded: bytes | None, max_pixels: int) -> str | None:
    """The reason of :func:`check_image`."""
    return check_image(encoded, max_pixels).reason


def check_image(encoded: bytes | None, max_pixels: int) -> Checked:
    """Why an encoded image cannot enter the catalog, or how large one is that can.

    The size is judged from the header, before anything is decoded; then the whole image is
    decoded. JPEG data damaged in the middle decodes to wrong pixels without an error of libjpeg,
    and passes.

    Args:
        encoded: the bytes of the file; None where they could not be had.
        max_pixels: the largest width times height, in pixels, that is accepted.

    Raises:
        MemoryError: it ran out, which says nothing of the image.
    """
    if encoded is None:
        return Checked("inaccessible")
    if not encoded:
        return Checked("empty_file")
    # Parsers of untrusted bytes raise whatever they run into (OSError, SyntaxError, struct.error,
    # IndexError, ...): here each of them says the same, that this image cannot be used.
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            width, height = image.size
    except Exception as error:
        _raise_lack_of_memory(error)
        return Checked("unreadable")
    if width * height > max_pixels:
        return Checked("too_many_pixels")
    try:
        return Checked(None, *decode_rgb(encoded).size)
    except UnsupportedModeError:
        return Checked("unsupported_mode")
    except UndecodableImageError as error:
        return Checked("truncated" if "truncated" in str(error).lower() else "corrupt")


def _raise_lack_of_memory(error: Exception) -> None:
    """Raise :class:`MemoryError` where memory ran out, as Python or a decoder in C says it."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        raise MemoryError("too little memory to decode it") from error


def _orientation(image: Image.Image) -> int | None:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:
        # A damaged EXIF block says nothing of orientation, and the pixels are untouched by it.
        return None
    return orientation if isinstance(orientation, int) else None


def _transparent_colour(image: ImageFile.ImageFile) -> Any:
    """The colour that stands for transparent, as the pixels will have it; None without one."""
    colour = image.info.get("transparency")
    widened = (
        _WIDENED.get(str(image.tile[0].args)) if image.format == "PNG" and image.tile else None
    )
    if colour is None or widened is None:
        return colour
    return tuple(map(widened, colour)) if isinstance(colour, tuple) else widened(colour)


def _on_white(image: Image.Image, transparent: Any) -> Image.Image:
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        white = np.zeros_like(values, np.bool_) if transparent is None else values == transparent
        image = Image.fromarray(np.where(white, 255, values >> 8).astype(np.uint8))
    elif transparent is not None:
        image.info["transparency"] = transparent
    if image.mode in ("I", "F"):
        raise UnsupportedModeError(f"pixels of mode {image.mode} have no defined white")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
