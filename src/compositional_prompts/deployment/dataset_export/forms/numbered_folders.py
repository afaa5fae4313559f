"""Photos as files of their own, in folders that are not too full."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compositional_prompts.deployment.dataset_export.photo_files import PhotoFile

FOLDER_FILES: Final = 10_000
"""In one folder at most, as the hub takes them."""


class NumberedFolders:
    """Writes ``images-000/shoe.jpg`` and so on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written = 0

    def write(self, photo: PhotoFile) -> str:
        """Write a photo; its path below the directory, with ``/``."""
        place = f"images-{self._written // FOLDER_FILES:03d}"
        if self._written % FOLDER_FILES == 0:
            (self._directory / place).mkdir(parents=True)
        self._written += 1
        # A name that is there already would be a fault of photo_stem.
        with (self._directory / place / photo.name).open("xb") as file:
            file.write(photo.encoded)
        return f"{place}/{photo.name}"
