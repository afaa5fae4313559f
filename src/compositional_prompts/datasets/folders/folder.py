"""A user's own directory of images, with what files or folders may say of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, field_validator, model_validator

from compositional_prompts.catalog.image_files import FolderError, find_images, list_files
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.columns import Columns, Name
from compositional_prompts.datasets.dataset import Caveat, DataSet, Selection
from compositional_prompts.datasets.folders.checksums import (
    ALTERED,
    is_altered,
    log_checksums,
    read_checksums,
)
from compositional_prompts.datasets.folders.class_folders import LEVELS, FolderLabels
from compositional_prompts.datasets.folders.customary_columns import CUSTOMARY, IMAGE_COLUMNS
from compositional_prompts.datasets.folders.image_labels import (
    FileLabels,
    LabelFile,
    Labels,
    Said,
)
from compositional_prompts.datasets.folders.named_images import NamedImages
from compositional_prompts.files.sorted_names import SortedNames
from compositional_prompts.pipeline.section import Base, require_distinct
from compositional_prompts.prompt.text_form import require_distinct_words

FOLDERS: Final = "folders"
METADATA: Final = "metadata"
METADATA_FILES: Final = ("metadata.jsonl", "metadata.csv")
"""What lies beside images in the layout that ``datasets`` calls imagefolder."""

log = logging.getLogger(__name__)


class Folder(DataSet):
    """The images of a directory, sorted by path, with what its labels say of them.

    The ``image_id`` is the path relative to the directory, with ``/`` between its parts.

    Attributes:
        path: the directory.
        labels: a file (CSV or TSV, JSON Lines, a JSON list, COCO's captions); FOLDERS, where the
            folder that an image lies in names its object; what the folders of each level name;
            METADATA, for METADATA_FILES beside the images; or None.
        columns: which column of the file is what; one that is None is that of a customary name.
        truth: groups of truth of which a column, or a level of folders, bears the name.
        missing_labels: values that mean "not known".
        on_missing: drop or keep the images of which nothing is said.
    """

    name: ClassVar[str] = "folder"
    caveat: ClassVar[Caveat] = Caveat(
        "Your labels are the truth",
        "Accuracies compare with the labels given with the photos, as they are. Where there are "
        "none, nothing can be measured and the page shows a dash.",
    )
    description: ClassVar[str] = "a folder of the exporter's own photographs"
    licence: ClassVar[str] = "Whose the photographs are, the exporter knows."
    grows: ClassVar[bool] = True

    path: str
    labels: str | Annotated[list[Name | None], Field(min_length=1)] | None
    columns: Columns
    truth: list[Name]
    missing_labels: list[str]
    on_missing: Literal["drop", "keep"]

    @field_validator("truth")
    @classmethod
    def _columns_of_truth(cls, groups: list[str]) -> list[str]:
        meant = (*IMAGE_COLUMNS, *LEVELS, *(name for names in CUSTOMARY.values() for name in names))
        taken = [name for name in groups if name in meant]
        if taken:
            raise ValueError(f"{taken[0]} is a column with a meaning of its own")
        require_distinct(groups, "names the column")
        return groups

    @field_validator("columns")
    @classmethod
    def _paths_are_ids(cls, columns: Columns) -> Columns:
        if columns.image_id is not None:
            raise ValueError(
                "has an image_id; an image of a folder is called by its path, so it must be null, "
                "and the column that holds the path is image"
            )
        return columns

    @model_validator(mode="after")
    def _groups_once(self) -> Folder:
        groups = [*self.truth, *(one.group for one in self.columns.truth)]
        require_distinct_words(groups, "truth and columns.truth name the group")
        return self

    @model_validator(mode="after")
    def _levels_are_known(self) -> Folder:
        if isinstance(self.labels, list):
            levels = [level for level in self.labels if level is not None]
            for level in levels:
                if level not in (*LEVELS, *self.truth):
                    raise ValueError(
                        f"labels names a level of folders {level!r}, expected {', '.join(LEVELS)}, "
                        "a group of truth, or null for one that says nothing"
                    )
            require_distinct(levels, "labels names the level")
            if "attribute" in levels and "object" not in levels:
                raise ValueError("labels: where there is one label only, it is the object")
        return self

    def brings_labels(self) -> bool:
        return self.labels is not None

    def files(self) -> list[tuple[str, str]]:
        named = [("path", self.path)]
        if isinstance(self.labels, str) and self.labels not in (FOLDERS, METADATA):
            named.append(("labels", self.labels))
        return named

    def select(self, base: Base) -> Selection:
        """See the class.

        Raises:
            FolderError: the directory is missing or holds no image, a file name is not UTF-8, or
                labels are not as expected.
            DelimitedError, JsonError, ColumnError: a file of labels is not.
        """
        directory = Path(self.path).expanduser()
        if not directory.is_dir():
            raise FolderError(
                f"download.folder.path: there is no directory {directory} (relative paths start "
                "at the root of the project)."
            )
        paths, passed_over = find_images(directory)
        labels = self._labels(directory, paths)
        named = 0 if labels is None else len(labels)
        kept = named if self.on_missing == "drop" else len(paths)
        return Selection(
            str(directory),
            self._rows(directory, paths, labels),
            kept + (0 if labels is None else len(labels.nowhere)),
            {"missing_label": len(paths) - kept},
            passed_over=passed_over,
            columns_kept_out=None if labels is None else labels.kept_out,
            further_captions=None if labels is None else labels.further_captions,
        )

    def _labels(self, directory: Path, paths: SortedNames) -> Labels | None:
        if self.labels is None:
            if any((directory / name).is_file() for name in METADATA_FILES):
                log.warning(
                    "warning: %s has metadata beside its images, which is not read; "
                    "download.folder.labels: %s reads it",
                    directory,
                    METADATA,
                )
            return None
        if isinstance(self.labels, list) or self.labels == FOLDERS:
            levels = self.labels if isinstance(self.labels, list) else ["object"]
            return FolderLabels(paths, levels, self.truth, self.missing_labels)
        files = _metadata(directory) if self.labels == METADATA else [_named(self.labels)]
        images = NamedImages(paths, directory)
        return FileLabels(files, images, self.columns, self.truth, self.missing_labels)

    def _rows(
        self, directory: Path, paths: SortedNames, labels: Labels | None
    ) -> Iterator[CatalogRow]:
        """The rows that are kept; labels are closed at their end."""
        groups = [*self.truth, *(one.group for one in self.columns.truth)]
        sums = read_checksums(directory)
        log_checksums(sums, paths, directory)
        try:
            for position, path in enumerate(paths):
                said = None if labels is None else labels.of(position, path)
                if said is not None or self.on_missing == "keep":
                    row = _row(directory, path, said or Said(), groups)
                    if row.image is not None and is_altered(sums, path, row.image):
                        row = row._replace(image=None, rejection=ALTERED)
                    yield row
            for name, why in {}.items() if labels is None else labels.nowhere.items():
                yield CatalogRow(image_id=name, product_id=name, image=None, path=why)
        finally:
            if labels is not None:
                labels.close()


def _metadata(directory: Path) -> list[LabelFile]:
    """The files of METADATA_FILES, each with the folder that it lies in."""
    found = []
    for path in sorted(list_files(directory)):
        folder, slash, name = path.rpartition("/")
        if name in METADATA_FILES:
            found.append(LabelFile(directory / path, folder + slash))
    if not found:
        raise FolderError(
            f"download.folder.labels: there is no {' and no '.join(METADATA_FILES)} in {directory} "
            f"or below. (A file of this name is ./{METADATA}.)"
        )
    return found


def _named(labels: str) -> LabelFile:
    path = Path(labels).expanduser()
    if not path.is_file():
        raise FolderError(
            f"download.folder.labels: there is no file {path}. (Labels that are names of folders "
            f"are {FOLDERS}, those of files beside the images {METADATA}.)"
        )
    return LabelFile(path)


def _row(directory: Path, path: str, said: Said, groups: Sequence[str]) -> CatalogRow:
    try:
        image = (directory / path).read_bytes()
    except OSError:
        # A dangling link or a file without permission: the ingestion sets it aside and counts it.
        image = None
    return CatalogRow(
        image_id=path,
        product_id=said.product_id or path,
        image=image,
        path=path,
        attribute=said.attribute,
        object=said.object,
        title=said.title,
        pair_split=said.split,
        truth={group: said.truth.get(group) for group in groups},
    )
