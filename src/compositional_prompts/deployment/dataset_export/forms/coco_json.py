"""Captions as COCO has them (Chen et al., 2015, https://arxiv.org/abs/1504.00325)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import IO, Any, Final

from compositional_prompts.deployment.dataset_export.forms.form_writer import (
    SPLIT_FOLDERS,
    Values,
)
from compositional_prompts.deployment.dataset_export.forms.numbered_folders import NumberedFolders
from compositional_prompts.deployment.dataset_export.photo_files import PhotoFile

ANNOTATIONS: Final = "annotations"
OF_THE_IMAGE: Final = ("product_id", "split", "title")
"""Columns that stand with the image; the others stand with its caption."""


class CocoJson:
    """``annotations/captions_train.json`` and the photos that it names, below ``train/``.

    COCO's ids are numbers, so what the catalog calls ``image_id`` is ``source_id`` of the image.
    """

    def __init__(self, directory: Path, description: str) -> None:
        self._directory = directory
        (directory / ANNOTATIONS).mkdir()
        self._splits: dict[str, _Captions] = {}
        self._description = description
        self._number = 0

    def write(self, values: Values, photo: PhotoFile | None) -> None:
        assert photo is not None
        split = values["split"]
        if split not in self._splits:
            path = self._directory / ANNOTATIONS / f"captions_{SPLIT_FOLDERS[split]}.json"
            photos = NumberedFolders(self._directory / SPLIT_FOLDERS[split])
            self._splits[split] = _Captions(path, self._description, photos)
        self._number += 1
        image = {
            "id": self._number,
            "file_name": self._splits[split].photos.write(photo),
            "width": photo.width,
            "height": photo.height,
            "source_id": values["image_id"],
            **{name: values[name] for name in OF_THE_IMAGE},
        }
        caption = {
            "id": self._number,
            "image_id": self._number,
            **{
                name: value
                for name, value in values.items()
                if name != "image_id" and name not in OF_THE_IMAGE
            },
        }
        self._splits[split].write(image, caption)

    def finish(self) -> None:
        for captions in self._splits.values():
            captions.finish()


class _Captions:
    """One JSON, whose two lists are written side by side and put together at the end."""

    def __init__(self, path: Path, description: str, photos: NumberedFolders) -> None:
        self.photos = photos
        self._path, self._behind = path, path.with_suffix(".annotations")
        self._images, self._annotations = (
            one.open("w", encoding="utf-8") for one in (self._path, self._behind)
        )
        info = json.dumps({"description": description}, ensure_ascii=False)
        self._images.write(f'{{"info": {info}, "licenses": [], "images": [\n')
        self._between = ""

    def write(self, image: Values, annotation: Values) -> None:
        for file, value in ((self._images, image), (self._annotations, annotation)):
            file.write(self._between + _as_json(value))
        self._between = ",\n"

    def finish(self) -> None:
        self._images.write('\n], "annotations": [\n')
        self._annotations.close()
        with self._behind.open(encoding="utf-8") as annotations:
            _copy(annotations, self._images)
        self._images.write("\n]}\n")
        self._images.close()
        self._behind.unlink()


def _copy(source: IO[str], target: IO[str]) -> None:
    shutil.copyfileobj(source, target, 2**20)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
