"""Whether a photo can enter the catalog, as a row that is kept."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from compositional_prompts.catalog import images
from compositional_prompts.catalog.images import check_image
from compositional_prompts.datasets.image_check import ImageCheck


@pytest.fixture
def photo() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError("out of memory error when reading image file")]
)
def test_a_lack_of_memory_is_no_fault_of_a_photo(
    error: Exception, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_white = images._on_white
    left = [error]

    def short_of_memory(image: Image.Image, transparent: object) -> Image.Image:
        if left:
            raise left.pop()
        return on_white(image, transparent)

    worker = ImageCheck(max_pixels=100).start()
    monkeypatch.setattr(images, "_on_white", short_of_memory)
    with pytest.raises(MemoryError, match=r"^too little memory to decode it$"):
        worker.prepare(photo)
    assert worker.prepare(photo) == (None, 4, 3)


def test_a_damaged_photo_is_set_aside(photo: bytes) -> None:
    worker = ImageCheck(max_pixels=100).start()
    for damaged in (photo[:-30], b"no photo"):
        reason = worker.prepare(damaged).reason
        assert reason in ("truncated", "corrupt", "unreadable")


def test_a_lack_of_memory_while_the_header_is_read_is_none_either(
    photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_image(*_: object, **__: object) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(Image, "open", open_image)
    with pytest.raises(MemoryError):
        check_image(photo, 100)
