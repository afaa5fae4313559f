"""Every kind of image file a shop sends: what passes, what is set aside and why."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from compositional_prompts.catalog.images import REJECTION_REASONS, decode_rgb, rejection_reason

LIMIT = 10_000_000
NOISE = np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)
PHOTO = Image.fromarray(NOISE)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    image = decode_rgb(content)
    assert image.mode == "RGB"
    return np.asarray(image)


GOOD = {
    "jpeg": encoded(PHOTO, "JPEG"),
    "cmyk jpeg": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "grey jpeg": encoded(PHOTO.convert("L"), "JPEG"),
    "palette": encoded(PHOTO.convert("P"), "PNG"),
    "palette with a transparent colour": encoded(PHOTO.convert("P"), "PNG", transparency=3),
    "one bit": encoded(PHOTO.convert("1"), "PNG"),
    "rgba": encoded(PHOTO.convert("RGBA"), "PNG"),
    "grey with alpha": encoded(PHOTO.convert("LA"), "PNG"),
    "16 bit": encoded(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), "PNG"),
    "webp": encoded(PHOTO, "WEBP"),
    "bmp": encoded(PHOTO, "BMP"),
    "tiff": encoded(PHOTO, "TIFF", compression="tiff_lzw"),
    "animated": encoded(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
    "many pictures": encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO]),
    "damaged exif": encoded(PHOTO, "JPEG", exif=b"Exif\0\0XX*\0not a directory"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_images_pass_and_decode_to_rgb(kind: str) -> None:
    assert rejection_reason(GOOD[kind], LIMIT) is None
    assert pixels(GOOD[kind]).shape == (60, 80, 3)


def test_a_20000_pixel_wide_image_is_judged_by_its_area() -> None:
    wide = encoded(Image.new("RGB", (20000, 100)), "JPEG")
    assert pixels(wide).shape == (100, 20000, 3)
    assert rejection_reason(wide, 20000 * 100) is None
    assert rejection_reason(wide, 20000 * 100 - 1) == "too_many_pixels"


def test_a_bomb_is_refused_by_its_header_alone() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + checksum
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert rejection_reason(bomb, 50_000_000) == "too_many_pixels"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "inaccessible"),
        (b"", "empty_file"),
        (b"not an image at all", "unreadable"),
        (GOOD["jpeg"][:20], "unreadable"),
        (GOOD["jpeg"][: len(GOOD["jpeg"]) // 2], "truncated"),
        (GOOD["rgba"][: len(GOOD["rgba"]) // 2], "truncated"),
        (GOOD["bmp"][:-40], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "unreadable"),
        (encoded(Image.new("F", (5, 5)), "TIFF"), "unsupported_mode"),
        (encoded(Image.new("I", (5, 5)), "TIFF"), "unsupported_mode"),
    ],
)
def test_bad_images_are_told_apart(content: bytes | None, reason: str) -> None:
    assert rejection_reason(content, LIMIT) == reason
    assert reason in REJECTION_REASONS


def test_bytes_wrong_in_the_middle_of_a_png_are_corrupt() -> None:
    content = bytearray(GOOD["rgba"])
    start = content.index(b"IDAT") + 4
    content[start : start + 200] = bytes(200)
    assert rejection_reason(bytes(content), LIMIT) == "corrupt"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(PHOTO, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    np.testing.assert_array_equal(pixels(content), np.asarray(expected))
    assert pixels(content).shape == ((60, 80, 3) if orientation < 5 else (80, 60, 3))


def test_transparency_is_laid_on_white() -> None:
    alpha = np.random.default_rng(8).integers(0, 256, (60, 80, 1), dtype=np.uint8)
    content = encoded(Image.fromarray(np.concatenate([NOISE, alpha], axis=2)), "PNG")
    weight = alpha / 255
    expected = NOISE * weight + 255 * (1 - weight)
    assert np.abs(pixels(content) - expected).max() <= 1


def test_a_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putdata([0, 1])
    content = encoded(image, "PNG", transparency=0)
    np.testing.assert_array_equal(pixels(content), [[[255, 255, 255], [200, 0, 0]]])


def png(colour_type: int, depth: int, width: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG of one row, as no writer at hand makes it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", header),
            chunk(b"tRNS", transparent),
            chunk(b"IDAT", zlib.compress(b"\0" + row)),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize(
    ("colour_type", "depth", "row", "transparent", "red"),
    [
        (0, 1, b"\x40", [1], [0, 255]),
        (0, 1, b"\x40", [0], [255, 255]),
        (0, 2, b"\x60", [2], [85, 255]),
        (0, 4, b"\x3e", [14], [51, 255]),
        (0, 8, b"\x00\x05", [5], [0, 255]),
        (0, 16, b"\x12\x34\x12\x35", [0x1234], [255, 18]),
        (0, 16, b"\x00\x00\x12\x35", [0], [255, 18]),
        (2, 8, b"\1\2\3\4\5\6", [4, 5, 6], [1, 255]),
        (2, 16, b"\1\0\2\0\3\0\4\7\5\7\6\7", [0x407, 0x507, 0x607], [1, 255]),
    ],
)
def test_a_transparent_colour_of_any_depth_becomes_white(
    colour_type: int, depth: int, row: bytes, transparent: list[int], red: list[int]
) -> None:
    content = png(colour_type, depth, 2, row, struct.pack(f">{len(transparent)}H", *transparent))
    assert pixels(content)[0, :, 0].tolist() == red


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(kind: str) -> None:
    values = np.random.default_rng(9).integers(0, 65536, (60, 80), dtype=np.uint16)
    content = encoded(Image.fromarray(values), kind)
    np.testing.assert_array_equal(pixels(content)[..., 1], values // 256)


def test_an_animation_gives_its_first_frame() -> None:
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    content = encoded(red, "GIF", save_all=True, append_images=[blue])
    assert (pixels(content) == [255, 0, 0]).all()
