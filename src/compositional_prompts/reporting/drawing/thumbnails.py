"""Small copies of catalog images: inside the page, and together on a contact sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.reading import iterate_images, read_images
from compositional_prompts.compute.ordered_map import map_in_threads
from compositional_prompts.files.outputs import atomic_file, naming

PAGE_BUDGET = 4_000_000
"""Bytes of base64 that all thumbnails of the page may take together."""

_SIDES = (200, 160, 120, 90, 60)


@dataclass(frozen=True, slots=True)
class PhotoSize:
    """How large the photos of a list may be.

    Attributes:
        sides: side lengths in pixels, the largest first.
        mean_bytes: that a photo takes on average at most, before base64.
    """

    sides: Sequence[int]
    mean_bytes: int


LIST = PhotoSize(sides=(136, 112, 88, 64), mean_bytes=1_500)
"""Of a list that holds thousands: small, and WebP, which has no tables to repeat."""

_SMALL_QUALITY = 60
_IN_FLIGHT = 64
_PROBED = 100
_CELL = (136, 102)
_SPACE = 12
_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image small enough to stand inside the page: a data URI and its size in pixels."""

    uri: str
    width: int
    height: int


def read_thumbnails(catalog: Path, image_ids: Sequence[str]) -> dict[str, Image.Image]:
    """The images named, RGB and at most 200 x 200 pixels (never enlarged), by their id.

    Raises:
        FileNotFoundError, KeyError or ValueError: as :func:`catalog.reading.read_images`, which
            names ids that the catalog does not hold.
    """
    if not image_ids:
        return {}
    table = read_images(catalog, image_ids)
    images = {}
    for row in table.to_batches(max_chunksize=1):
        (image_id,) = row.column("image_id").to_pylist()
        (encoded,) = row.column("image").field("bytes").to_pylist()
        with naming(image_id):
            images[image_id] = _reduced(decode_rgb(encoded), _SIDES[0])
    return images


def as_data_uris(
    images: Mapping[str, Image.Image], uses: Mapping[str, int], budget: int = PAGE_BUDGET
) -> dict[str, Thumbnail]:
    """JPEG data URIs at the largest side length at which all ``uses`` fit into ``budget`` bytes.

    ``uses[image_id]`` is how often the page shows an image.

    Raises:
        ValueError: even the smallest copies do not fit.
    """
    for side in _SIDES:
        thumbnails = {key: _encoded(_reduced(image, side)) for key, image in images.items()}
        size = sum(len(thumbnail.uri) * uses[key] for key, thumbnail in thumbnails.items())
        if size <= budget:
            return thumbnails
    raise ValueError(
        f"{sum(uses.values())} images at {_SIDES[-1]} pixels take {size:,} bytes, more than the "
        f"{budget:,} that the page allows: lower report.gallery_images."
    )


@dataclass(frozen=True, slots=True)
class SmallPhoto:
    """A photo of the list: the name of its file, and its small copy as base64 of a WebP."""

    path: str
    webp: str


def read_small_photos(
    catalog: Path, image_ids: Sequence[str], workers: int, size: PhotoSize = LIST
) -> dict[str, SmallPhoto]:
    """Small copies of many photos, all of one side length, by their id.

    It is the largest at which a hundred of them, spread over all, take ``size.mean_bytes`` on
    average, or the smallest there is; none is enlarged. Memory holds the small copies and a
    batch of photos.

    Raises:
        MissingOutputError, DamagedOutputError, SchemaError, ImageJoinError: as
            :func:`catalog.reading.iterate_images`.
    """
    if not image_ids:
        return {}
    probe = image_ids[:: max(1, len(image_ids) // _PROBED)]
    tried = list(_encode_small(catalog, probe, size.sides, workers))
    side = next(
        (
            side
            for place, side in enumerate(size.sides)
            if sum(len(copies[place]) for _, _, copies in tried) <= size.mean_bytes * len(tried)
        ),
        size.sides[-1],
    )
    return {
        image_id: SmallPhoto(path, base64.b64encode(copies[0]).decode("ascii"))
        for image_id, path, copies in _encode_small(catalog, image_ids, (side,), workers)
    }


def _encode_small(
    catalog: Path, image_ids: Sequence[str], sides: Sequence[int], workers: int
) -> Iterator[tuple[str, str, list[bytes]]]:
    """Id, path, and a WebP of each side length, in the catalog's order."""

    def encoded() -> Iterator[tuple[str, str, bytes]]:
        for batch in iterate_images(catalog, image_ids):
            for image_id, image in zip(*(column.to_pylist() for column in batch), strict=True):
                yield image_id, image["path"] or "", image["bytes"]

    def reduce(row: tuple[str, str, bytes]) -> tuple[str, str, list[bytes]]:
        with naming(row[0]):
            image = decode_rgb(row[2])
        return row[0], row[1], [_webp(_reduced(image, side)) for side in sides]

    yield from map_in_threads(reduce, encoded(), workers=workers, in_flight=_IN_FLIGHT)


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=_SMALL_QUALITY, method=4)
    return buffer.getvalue()


def write_contact_sheet(images: Sequence[Image.Image], path: Path) -> None:
    """Write ``images`` side by side on white, eight a row, as one JPEG.

    Raises:
        ValueError: there is no image to show.
    """
    if not images:
        raise ValueError(f"{path}: no image to show on the contact sheet; the data set is empty.")
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    size = tuple(
        count * cell + (count + 1) * _SPACE
        for count, cell in zip((columns, rows), _CELL, strict=True)
    )
    sheet = Image.new("RGB", (size[0], size[1]), "white")
    for index, image in enumerate(images):
        scaled = image.copy()
        scaled.thumbnail(_CELL, Image.Resampling.LANCZOS)
        row, column = divmod(index, columns)
        x = _SPACE + column * (_CELL[0] + _SPACE) + (_CELL[0] - scaled.width) // 2
        y = _SPACE + row * (_CELL[1] + _SPACE) + (_CELL[1] - scaled.height) // 2
        sheet.paste(scaled, (x, y))
    with atomic_file(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=90, optimize=True)


def _reduced(image: Image.Image, side: int) -> Image.Image:
    reduced = image.copy()
    reduced.thumbnail((side, side), Image.Resampling.LANCZOS)
    return reduced


def _encoded(image: Image.Image) -> Thumbnail:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, optimize=True)
    payload = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{payload}", image.width, image.height)
