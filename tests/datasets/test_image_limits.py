"""Photos of which too much would be made are refused by their header, by a reason of their own."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from compositional_prompts.catalog import images
from compositional_prompts.catalog.images import check_image
from compositional_prompts.datasets.image_check import ImageCheck, reason_in
from compositional_prompts.datasets.image_limits import (
    MOST_ELONGATED,
    PHOTO_REASONS,
    TOO_ELONGATED,
    TOO_MUCH_MEMORY,
    judge_photo,
)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (MOST_ELONGATED * 2 + 1, 2)])
def test_a_long_photo_is_refused_before_it_is_decoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = encoded(Image.new("L", size))
    assert check_image(photo, 50_000_000).reason is None  # it passes all that looks at it alone

    def decoded(*_: object) -> Image.Image:
        raise AssertionError("decoded")

    monkeypatch.setattr(images, "_decoded", decoded)
    assert judge_photo(photo, 50_000_000) == (TOO_ELONGATED, 0, 0)


@pytest.mark.parametrize("size", [(MOST_ELONGATED, 1), (2, MOST_ELONGATED * 2), (1, 1)])
def test_a_photo_at_the_limit_passes(size: tuple[int, int]) -> None:
    assert judge_photo(encoded(Image.new("RGB", size)), 50_000_000) == (None, *size)


TRANSPARENT = {
    "rgba": encoded(Image.new("RGBA", (60, 50))),
    "grey": encoded(Image.new("LA", (60, 50))),
    "palette": encoded(Image.new("P", (60, 50)), transparency=0),
    "one colour": encoded(Image.new("RGB", (60, 50)), transparency=(0, 0, 0)),
    "gif": encoded(Image.new("P", (60, 50)), "GIF", transparency=0),
    "tiff": encoded(Image.new("RGBA", (60, 50)), "TIFF"),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_photos_may_have_three_fifths_of_the_pixels(kind: str) -> None:
    assert judge_photo(TRANSPARENT[kind], 5_000).reason is None
    assert judge_photo(TRANSPARENT[kind], 4_999).reason == TOO_MUCH_MEMORY
    assert judge_photo(TRANSPARENT[kind], 2_999).reason == "too_many_pixels"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "AVIF"])
def test_opaque_photos_are_judged_by_their_pixels_alone(kind: str) -> None:
    photo = encoded(Image.new("RGB", (60, 50)), kind)
    assert judge_photo(photo, 3_000) == (None, 60, 50)
    assert judge_photo(photo, 2_999).reason == "too_many_pixels"


def test_a_header_of_a_large_transparent_photo_is_enough() -> None:
    header = struct.pack(">IIBBBBB", 8_000, 6_000, 8, 6, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    photo = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + checksum
    photo += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert judge_photo(photo, 50_000_000).reason == TOO_MUCH_MEMORY


@pytest.mark.parametrize(
    ("photo", "reason"), [(None, "inaccessible"), (b"", "empty_file"), (b"no photo", "unreadable")]
)
def test_what_is_no_photo_keeps_its_reason(photo: bytes | None, reason: str) -> None:
    assert judge_photo(photo, 100).reason == reason


def test_reasons_are_kept_as_rows() -> None:
    worker = ImageCheck(max_pixels=4_999).start()
    long = encoded(Image.new("L", (1, 4_000)))
    rows = worker.compute([worker.prepare(one) for one in (long, TRANSPARENT["rgba"])])
    assert [reason_in(row) for row in rows] == [TOO_ELONGATED, TOO_MUCH_MEMORY]
    assert len(set(PHOTO_REASONS)) == len(PHOTO_REASONS)
