"""A user's own directory of images, with an optional CSV of labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NoReturn

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.ingestion import Selection
from compositional_prompts.datasets.parameters import LABEL_COLUMNS, FolderDataset
from compositional_prompts.prompt.pair import dotted

EXTENSIONS: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""File names that are taken for images, in any case."""

Labels = Mapping[str, str | None]


class FolderError(ValueError):
    """The directory or its CSV is not what is expected."""


def select_images(params: FolderDataset) -> Selection:
    """The images of a directory, sorted by path, with what its CSV says of them.

    The ``image_id`` is the path relative to the directory, with ``/`` between its parts.

    Raises:
        FolderError: the directory is missing or holds no image, a file name is not UTF-8, or the
            CSV is not as :func:`read_labels_csv` expects.
    """
    directory = Path(params.path).expanduser()
    paths = find_images(directory)
    labels: dict[str, Labels] = {}
    if params.labels is not None:
        source = Path(params.labels).expanduser()
        if not source.is_file():
            raise FolderError(f"download.folder.labels: there is no file {source}.")
        labels = read_labels_csv(
            source.read_bytes(), str(source), params.truth, set(paths), str(directory)
        )
    kept = [path for path in paths if params.on_missing == "keep" or path in labels]
    rows = (_row(directory, path, labels.get(path, {}), params.truth) for path in kept)
    return Selection(str(directory), rows, len(kept), {"missing_label": len(paths) - len(kept)})


def find_images(directory: Path) -> list[str]:
    """The image files under ``directory``: relative paths with ``/``, sorted.

    Hidden files and folders are skipped. Links are followed, and every folder is read once
    however many links lead to it, so loops end.

    Raises:
        FolderError: the directory is missing or holds no image, or a file name is not UTF-8.
    """
    if not directory.is_dir():
        raise FolderError(
            f"download.folder.path: there is no directory {directory} (relative paths start at "
            "the root of the project)."
        )
    found = []
    visited: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(directory, followlinks=True, onerror=_raise):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        # In place, which os.walk takes as where to go next and in which order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                found.append((Path(parent) / name).relative_to(directory).as_posix())
    for path in found:
        if not _is_utf8(path):
            raise FolderError(f"{directory}: the file name {path!r} is not UTF-8: rename it.")
    if not found:
        raise FolderError(f"empty data set: {directory} holds no image ({', '.join(EXTENSIONS)}).")
    return sorted(found)


def read_labels_csv(
    content: bytes, source: str, truth: Sequence[str], paths: set[str], directory: str
) -> dict[str, Labels]:
    """Parse a CSV of labels: a column ``image_path``, any of ``LABEL_COLUMNS``, and of truth.

    UTF-8, with or without a byte-order mark; comma-separated, quoted where needed; LF or CRLF.
    Values lose surrounding space, and empty ones mean unknown; attributes and objects get dots
    for spaces.

    Args:
        content: the file.
        source: its name, for messages.
        truth: attribute groups, of which the CSV may have a column each.
        paths: the images there are, relative to ``directory``, with ``/``.
        directory: its name, for messages.

    Returns:
        The labels of every image named, by path.

    Raises:
        FolderError: naming the line and what is wrong with it.
    """
    reader = csv.reader(io.StringIO(_decoded(content, source), newline=""), strict=True)
    columns: list[str] = []
    labels: dict[str, Labels] = {}
    lines: dict[str, int] = {}
    try:
        columns = _checked_header([name.strip() for name in next(reader, [])], truth, source)
        for cells in reader:
            if not cells:
                continue
            place = f"{source}, line {reader.line_num}"
            if len(cells) != len(columns):
                raise FolderError(
                    f"{place}: {len(cells)} cells, expected {len(columns)} "
                    f"({', '.join(columns)}); quote a value that holds a comma."
                )
            values = dict(zip(columns, (cell.strip() or None for cell in cells), strict=True))
            path = _image_path(values.pop("image_path"), place, paths, directory)
            if path in lines:
                raise FolderError(f"{place}: {path!r} was already named in line {lines[path]}.")
            lines[path] = reader.line_num
            labels[path] = _checked_labels(values, place)
    except csv.Error as error:
        raise FolderError(f"{source}, line {reader.line_num}: not CSV: {error}.") from error
    return labels


def _decoded(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FolderError(
            f"{source}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8; save "
            "the file as UTF-8."
        ) from error


def _checked_header(columns: list[str], truth: Sequence[str], source: str) -> list[str]:
    known = ("image_path", *LABEL_COLUMNS, *truth)
    unknown = [name for name in columns if name not in known]
    if "image_path" not in columns or unknown:
        problem = f"unknown column {unknown[0]!r}" if unknown else "no column 'image_path'"
        raise FolderError(
            f"{source}, line 1: {problem}; found {', '.join(columns) or 'nothing'}; expected "
            f"image_path and any of {', '.join(known[1:])}, separated by commas. A column of truth "
            "bears the name of its attribute group, which download.folder.truth lists."
        )
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise FolderError(f"{source}, line 1: column {twice[0]!r} stands there twice.")
    return columns


def _image_path(value: str | None, place: str, paths: set[str], directory: str) -> str:
    if value is None:
        raise FolderError(f"{place}: image_path is empty.")
    path = PurePosixPath(value).as_posix()
    if path not in paths:
        raise FolderError(
            f"{place}: {value!r} is no image under {directory}; image_path is relative to it, "
            "with / between folders, and case matters."
        )
    return path


def _checked_labels(values: dict[str, str | None], place: str) -> Labels:
    attribute, object_ = values.get("attribute"), values.get("object")
    if (attribute is None) != (object_ is None):
        missing = "attribute" if attribute is None else "object"
        raise FolderError(
            f"{place}: {missing} is empty; give both attribute and object, or neither."
        )
    for name, text in (("attribute", attribute), ("object", object_)):
        if text is not None:
            try:
                values[name] = dotted(text)
            except ValueError as error:
                raise FolderError(f"{place}: {name}: {error}") from error
    return values


def _row(directory: Path, path: str, labels: Labels, groups: Sequence[str]) -> CatalogRow:
    try:
        image = (directory / path).read_bytes()
    except OSError:
        # A dangling link or a file without permission: the ingestion sets it aside and counts it.
        image = None
    return CatalogRow(
        image_id=path,
        product_id=labels.get("product_id") or path,
        image=image,
        path=path,
        attribute=labels.get("attribute"),
        object=labels.get("object"),
        title=labels.get("title"),
        truth={group: labels.get(group) for group in groups},
    )


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raise(error: OSError) -> NoReturn:
    raise error
