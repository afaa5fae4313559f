"""JSON lines beside photos, which ``datasets`` reads as an ``imagefolder``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from compositional_prompts.deployment.dataset_export.forms.form_writer import Values
from compositional_prompts.deployment.dataset_export.forms.numbered_folders import NumberedFolders
from compositional_prompts.deployment.dataset_export.photo_files import PhotoFile

METADATA: Final = "metadata.jsonl"


class ImageFolder:
    """``metadata.jsonl``, a line a photo with its path, ``file_name``, first.

    One file for all splits: of several ``datasets`` would refuse those where a column has no value
    (``findings/datasets_refuses_null_columns.sh``).
    """

    def __init__(self, directory: Path) -> None:
        self._photos = NumberedFolders(directory)
        self._file = (directory / METADATA).open("w", encoding="utf-8")

    def write(self, values: Values, photo: PhotoFile | None) -> None:
        assert photo is not None
        line = {"file_name": self._photos.write(photo), **values}
        self._file.write(f"{json.dumps(line, ensure_ascii=False, allow_nan=False)}\n")

    def finish(self) -> None:
        self._file.close()
