"""Which column of a file is what, where the parameters do not say: those of customary names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from compositional_prompts.catalog.image_files import FolderError
from compositional_prompts.datasets.columns import Columns, TruthColumn, missing_column
from compositional_prompts.datasets.folders.record_files import RecordFile

IMAGE_COLUMNS: Final = (
    "image_path",
    "file_name",  # of imagefolder and of COCO
    "filename",
    "image_name",
    "image",  # of LAVIS
    "path",
    "image_id",  # of the page that asks for labels, where it is the path
)
CUSTOMARY: Final[Mapping[str, Sequence[str]]] = {
    "product_id": ("product_id",),
    "attribute": ("attribute",),
    "object": ("object", "label"),
    "title": ("title", "caption", "text"),
}
"""What columns are called by themselves, in any case; of several the first counts."""

_PARAMETER: Final = "download.folder.columns"


def meant_columns(given: Columns, truth: Sequence[str], file: RecordFile) -> Columns:
    """What the columns of a file are: those that the parameters name, and customary ones.

    Args:
        given: a column that it names must be there. Where it names the object or the attribute,
            these are all labels.
        truth: groups of which the file may have a column each, that bears their name.
        file: whose columns they are.

    Raises:
        FolderError: a column that is needed is missing, or stands there twice.
    """
    by_name = {name.casefold(): name for name in reversed(file.columns)}
    by_name |= {name: name for name in file.columns}

    def customary(names: Sequence[str]) -> str | None:
        found = (by_name.get(name, by_name.get(name.casefold())) for name in names)
        return next((name for name in found if name is not None), None)

    named = given.image or customary(IMAGE_COLUMNS)
    if named is None:
        raise FolderError(
            f"{file.source}: no column names the images; found "
            f"{', '.join(file.columns) or 'none'}. Expected one of {', '.join(IMAGE_COLUMNS)}, or "
            f"the one that {_PARAMETER}.image names."
        )
    meant = given.model_dump() | {"image": named, "image_id": None}
    labels_given = given.object is not None
    for field, names in CUSTOMARY.items():
        if meant[field] is None and not (labels_given and field in ("attribute", "object")):
            meant[field] = customary(names)
    words = {one.group: one.column for one in given.truth}
    for group in truth:
        column = customary([group])
        if column is not None:
            words.setdefault(group, column)
    if meant["attribute"] is not None and meant["object"] is None:
        raise FolderError(
            f"{file.source}: there is a column {meant['attribute']!r} and none of objects, and "
            "where there is one label only it is the object: call the column object, or name it "
            f"in {_PARAMETER}.object."
        )
    meant["truth"] = [TruthColumn(group=group, column=name) for group, name in words.items()]
    columns = Columns(**meant)
    _check(columns, file)
    return columns


def _check(columns: Columns, file: RecordFile) -> None:
    used = [columns.image, *columns.described]
    for name in used:
        if name is not None and name not in file.columns:
            raise FolderError(f"{_PARAMETER}: {missing_column(name, file.columns, file.source)}")
    twice = [name for name in file.twice if name in used]
    if twice:
        raise FolderError(f"{file.source}: the column {twice[0]!r} stands there twice.")
    kept_out = columns.kept_out(file.columns)
    if not columns.described and kept_out:
        raise FolderError(
            f"{file.source}: no column says anything of the images; found "
            f"{', '.join(file.columns)}. Name those that do in {_PARAMETER}."
        )
