"""What writes the rows of an export in one layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from compositional_prompts.deployment.dataset_export.photo_files import PhotoFile

SPLIT_FOLDERS: Final = {"train": "train", "val": "validation", "test": "test"}
"""What the splits are called in names of files, as the hub calls them."""

SHARD_BYTES: Final = 256 * 2**20
"""Of a file that holds many photos, at most, but for a single larger photo."""

Values = Mapping[str, Any]
"""Of a row, by column."""


class FormWriter(Protocol):
    """Writes into a folder; the bytes of its files depend on the rows and their order alone."""

    def write(self, values: Values, photo: PhotoFile | None) -> None:
        """Append a row; ``photo`` is None only where the form has no photos."""
        ...

    def finish(self) -> None:
        """Write what is still held, and close all files."""
        ...
