"""Tar files of samples, as the library webdataset and img2dataset write them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import field_validator, model_validator

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.columns import ColumnReader, Columns, Name
from compositional_prompts.datasets.dataset import Caveat, DataSet, Selection
from compositional_prompts.datasets.webdatasets.sample_records import (
    KEY,
    SHARD,
    download_status,
    read_record,
)
from compositional_prompts.datasets.webdatasets.shard_paths import Shard, ShardError, find_shards
from compositional_prompts.datasets.webdatasets.tar_samples import (
    CLASS,
    Sample,
    is_image,
    iterate_samples,
)
from compositional_prompts.files.downloads import DOWNLOADS
from compositional_prompts.pipeline.section import Base, require_distinct

# Of distinct keys in the JSON, to be named; more are data, and no columns.
_COLUMNS: Final = 1000

logger = logging.getLogger(__name__)


class Webdataset(DataSet):
    """The images of the samples, tar by tar, with what their JSON and texts say of them.

    ``image_id`` is the tar's name below the folder that the pattern begins with, a slash, and the
    sample's key; with several images a sample also a dot and what stands behind the key. These are
    then of one product.

    Nothing is unpacked. A sample that cannot be used is a row that the ingestion sets aside:
    ``no_image``, ``unreadable_json``, ``unreadable_text``, ``name_not_utf8``, ``link``,
    ``too_large``.

    Attributes:
        shards: as :func:`~...webdatasets.shard_paths.find_shards` takes it.
        images: which images a sample may have, by what stands behind the key; empty: any one.
        columns: of a sample's record (:func:`~...webdatasets.sample_records.read_record`).
        class_names: a file with the name of a class a line, for the numbers in ``cls``.
    """

    name: ClassVar[str] = "webdataset"
    caveat: ClassVar[Caveat] = Caveat(
        "The labels in the tars are the truth",
        "Accuracies compare with the labels that the samples bring, as they are. Captions that "
        "were gathered with photos from the web often say little of what is to be seen.",
    )
    description: ClassVar[str] = "tar files of images with texts (webdataset)"
    licence: ClassVar[str] = "The images are under the terms of whoever published them."
    grows: ClassVar[bool] = True

    shards: Name
    images: list[Name]
    columns: Columns
    class_names: Name | None
    missing_labels: list[str]
    on_missing: Literal["drop", "keep"]

    @field_validator("images")
    @classmethod
    def _are_images(cls, images: list[str]) -> list[str]:
        require_distinct(images, "names the image")
        for one in images:
            if one != one.lower().removeprefix(".") or not is_image(one):
                raise ValueError(
                    f"{one!r} is no ending of an image as it stands behind a sample's key, in "
                    "lower case and without a dot before it, such as jpg or front.jpg"
                )
        return images

    @model_validator(mode="after")
    def _images_are_members(self) -> Webdataset:
        if self.columns.image is not None:
            raise ValueError(
                "columns.image must be null: images are members of the tar, which `images` names"
            )
        return self

    def brings_labels(self) -> bool:
        return self.columns.object is not None

    def files(self) -> list[tuple[str, str]]:
        return [] if self.class_names is None else [("class_names", self.class_names)]

    def select(self, base: Base) -> Selection:
        """See the class. The tars are read with the rows.

        Raises:
            ShardError: the tars are not there, or hold no samples as expected; of the rows also:
                a sample has several images and ``images`` names none.
            ArchiveError: of the rows: a tar is damaged or cannot be trusted.
            ColumnError: of the rows: no sample has a column, or a value is not what it should be.
        """
        shards = find_shards(self.shards, f"download.{self.name}.shards")
        reading = _Reading(self, self._classes())
        source = str(shards[0].path) if len(shards) == 1 else f"{len(shards)} tars ({self.shards})"
        return Selection(
            source,
            reading.rows(shards, source),
            None,
            reading.dropped,
            passed_over=reading.passed_over,
            columns_kept_out=reading.kept_out,
        )

    def _classes(self) -> dict[str, Sequence[str]]:
        if self.class_names is None:
            return {}
        path = Path(self.class_names).expanduser()
        parameter = f"download.{self.name}.class_names"
        if not path.is_file():
            raise ShardError(f"{parameter}: there is no file {path}.")
        try:
            names = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise ShardError(f"{parameter}: {path}: byte {error.start} is not UTF-8.") from error
        while names and not names[-1]:
            names.pop()
        blank = next((number for number, name in enumerate(names, 1) if not name), None)
        if blank or not names:
            raise ShardError(f"{parameter}: {path}, line {blank or 1}: blank, expected a class.")
        return {CLASS: names}


class _Reading:
    """One way through the tars, and what is counted on it."""

    def __init__(self, data_set: Webdataset, classes: Mapping[str, Sequence[str]]) -> None:
        self._params = data_set
        self._reader = ColumnReader(data_set.columns, data_set.missing_labels, classes)
        self._found: dict[str, None] = {}
        self.dropped = {"missing_label": 0}
        self.passed_over: Counter[str] = Counter()
        self.kept_out: list[str] = []

    def rows(self, shards: Sequence[Shard], source: str) -> Iterator[CatalogRow]:
        for shard in shards:
            samples = iterate_samples(shard, DOWNLOADS, self._is_wanted, self.passed_over)
            for sample in samples:
                yield from self._of(sample)
        if self._found:
            self._params.columns.require(self._found, source)
        self.kept_out += self._params.columns.kept_out(
            name for name in sorted(self._found) if name not in (KEY, SHARD)
        )

    def _is_wanted(self, extension: str) -> bool:
        return not self._params.images or extension in self._params.images

    def _of(self, sample: Sample) -> Iterator[CatalogRow]:
        record = read_record(sample)
        self._remember(record)
        if not sample.images:
            status = download_status(record)
            held = ", ".join(sample.names) or "none that is read"
            sample.fail("no_image", f"{status or 'no member is an image'} (members: {held})")
        if sample.problem is not None:
            yield _set_aside(sample, *sample.problem)
            return
        place = f"{sample.shard.path}, sample {sample.key!r}"
        if len(sample.images) > 1 and not self._params.images:
            names = ", ".join(sample.images)
            raise ShardError(
                f"{place}: {len(sample.images)} images ({names}): name the one to take as "
                f"download.{self._params.name}.images, or all that are photos of the product."
            )
        described = self._reader.describe(record, place)
        image_id = self._reader.image_id(record, place) or f"{sample.shard.name}/{sample.key}"
        unlabelled = self._params.brings_labels() and described.object is None
        for extension in self._params.images or sample.images:
            if extension not in sample.images:
                continue
            if unlabelled and self._params.on_missing == "drop":
                self.dropped["missing_label"] += 1
                continue
            yield CatalogRow(
                image_id=f"{image_id}.{extension}" if len(self._params.images) > 1 else image_id,
                product_id=described.product_id or image_id,
                image=sample.images[extension],
                path=f"{sample.shard.path.name}/{sample.names[extension]}",
                attribute=described.attribute,
                object=described.object,
                title=described.title,
                truth=described.truth,
            )

    def _remember(self, record: Mapping[str, Any]) -> None:
        for name in record:
            if len(self._found) < _COLUMNS or name in self._params.columns.described:
                self._found[name] = None


def _set_aside(sample: Sample, reason: str, what: str) -> CatalogRow:
    name = f"{sample.shard.name}/{sample.key}".encode(errors="backslashreplace").decode()
    return CatalogRow(
        image_id=name,
        product_id=name,
        image=None,
        path=f"{sample.shard.path}, sample {sample.key!a}: {what}",
        rejection=reason,
    )
