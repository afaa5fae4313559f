"""UT-Zappos: shoes by material and type, and what UT-Zap50K itself says of them.

Yu and Grauman, "Fine-grained visual comparisons with local learning", CVPR 2014. Its
``meta-data.csv`` has one row a photo, by its CID: ``100627-72`` is product 100627 in colour 72,
whose photo is ``100627.72.jpg``.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import ClassVar, Final

from compositional_prompts.datasets.compositional.compositional_split import (
    ArchiveFile,
    CompositionalDataSet,
    TruthOf,
)
from compositional_prompts.datasets.compositional.split_files import TEXT_BYTES, Layout, SplitFiles
from compositional_prompts.datasets.dataset import Caveat

TRUTH_BY_COLUMN: Final = {
    "Material": "material",
    "Closure": "closure",
    "HeelHeight": "heel_height",
    "Gender": "gender",
}
"""Columns of the file, and the attribute group that each is the truth of."""

TRUTH_FILES: Final = ("meta-data.csv", "ut-zap50k-data/meta-data.csv")

_ID_COLUMN: Final = "CID"

logger = logging.getLogger(__name__)


class TruthError(ValueError):
    """The file is not as UT-Zap50K publishes it."""


class UtZappos(CompositionalDataSet):
    """Attribute = material, object = type of shoe.

    Where ``meta-data.csv`` is there, it gives truth of material, closure, heel height and gender.
    Photos of one product in several colours share a ``product_id``.
    """

    name: ClassVar[str] = "ut_zappos"
    caveat: ClassVar[Caveat] = Caveat(
        "A shop's labels are the truth",
        "Materials and types are those a shop typed in, and some photos show neither plainly. Of "
        "a shoe with several materials, the data set's split keeps one as its attribute; where "
        "several words are true, any of them counts as right.",
    )
    description: ClassVar[str] = (
        "UT-Zap50K (Yu and Grauman, CVPR 2014) in its compositional split of photos and pairs"
    )
    licence: ClassVar[str] = (
        "UT-Zap50K has the photos of a shop, gathered for research: see its publishers' terms."
    )
    layout: ClassVar[Layout] = Layout(
        ("", "ut-zappos/", "ut-zap50k/"),
        ("images/",),
        ("_images/", "ut-zap50k-images/", "ut-zap50k-images-square/", ""),
    )

    images: ArchiveFile
    splits: ArchiveFile
    truth: ArchiveFile | None

    def product_of(self, image: str) -> str:
        return PurePosixPath(image).name.partition(".")[0]

    def read_truth(self, files: SplitFiles) -> TruthOf:
        name = files.find(f"{root}{path}" for root in self.layout.roots for path in TRUTH_FILES)
        if name is None:
            logger.info("%s has no meta-data.csv: its photos have no truth", files.source)
            return super().read_truth(files)
        truth = read_truth(files.read(name, TEXT_BYTES), f"{files.source}: {name}")
        return lambda entry: truth.get(photo_id(entry.original or entry.image) or "", {})


def photo_id(path: str) -> str | None:
    """The CID of a photo by its path (``.../100627.72.jpg``), or None for another kind of name."""
    parts = PurePosixPath(path).name.split(".")
    return f"{parts[0]}-{parts[1]}" if len(parts) == 3 else None


def read_truth(content: bytes, source: str) -> dict[str, Mapping[str, str]]:
    """The truth of every photo, by CID: the file's cells, as a row of the catalog has them.

    Args:
        content: the file: UTF-8, commas, a header with CID and the columns of
            :data:`TRUTH_BY_COLUMN`, and any others.
        source: its name, for messages.

    Raises:
        TruthError: naming the line and what is wrong with it.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TruthError(f"{source}: byte {error.start} is not UTF-8.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    truth: dict[str, Mapping[str, str]] = {}
    try:
        header = reader.fieldnames or []
        missing = [name for name in (_ID_COLUMN, *TRUTH_BY_COLUMN) if name not in header]
        if missing:
            raise TruthError(
                f"{source}, line 1: no column {missing[0]!r}; found {', '.join(header) or 'none'}."
            )
        for row in reader:
            place = f"{source}, line {reader.line_num}"
            if None in row or None in row.values():
                raise TruthError(f"{place}: not {len(header)} cells as in the header.")
            values = {group: row[column] for column, group in TRUTH_BY_COLUMN.items()}
            if truth.setdefault(row[_ID_COLUMN], values) != values:
                raise TruthError(f"{place}: {row[_ID_COLUMN]!r} stood before with other values.")
    except csv.Error as error:
        line = reader.reader.line_num  # the other is not yet there
        raise TruthError(f"{source}, line {line}: not CSV: {error}.") from error
    return truth
