"""What the files of exported photos are called, whatever their images are called."""

from __future__ import annotations

import io
import re
from typing import Any, Final, NamedTuple

from PIL import Image

from compositional_prompts.catalog.images import FORMATS
from compositional_prompts.files.digests import content_digest

_EXTENSIONS: Final = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
_LONGEST: Final = 48
# No dot, at which webdataset cuts, no slash, no capital letters, which some file systems do not
# tell apart, and no device of Windows.
_PLAIN: Final = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)$)[a-z0-9][a-z0-9_-]*")


class PhotoFile(NamedTuple):
    """A photo as a file.

    Attributes:
        stem: its name without the extension: ASCII, of at most 81 characters, another one for
            every image_id.
        extension: by its content, without the dot.
        encoded: the bytes of the file, as they are in the catalog.
        width: in pixels, as stored,
        height: likewise.
    """

    stem: str
    extension: str
    encoded: bytes
    width: int
    height: int

    @property
    def name(self) -> str:
        return f"{self.stem}.{self.extension}"


def photo_file(image_id: str, encoded: bytes) -> PhotoFile:
    """The file of a photo of the catalog."""
    formats: Any = FORMATS
    with Image.open(io.BytesIO(encoded), formats=formats) as image:
        kind = image.format or "bin"
        width, height = image.size
    extension = _EXTENSIONS.get(kind, kind.lower())
    return PhotoFile(photo_stem(image_id), extension, encoded, width, height)


def photo_stem(image_id: str) -> str:
    """A file name for an image_id: itself where it is plain, else what is plain of it and a digest.

    The tilde before the digest stands in no plain id, so no two ids have one name.
    """
    if len(image_id) <= _LONGEST and _PLAIN.fullmatch(image_id):
        return image_id
    plain = re.sub(r"[^a-z0-9_-]+", "-", image_id.lower()).strip("-")[:_LONGEST]
    return f"{plain or 'photo'}~{content_digest(image_id.encode()).hex()}"
