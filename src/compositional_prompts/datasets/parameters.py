"""Parameters of the stage ``download``, and of each data set."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, field_validator

from compositional_prompts.pipeline.section import Fraction, Positive, Section, Sha256, Words


class SampleDataset(Section):
    images: Positive


class FashionProductsDataset(Section):
    source: str
    revision: str | None
    filters: dict[str, Words]
    attribute: str
    object: str
    min_pair_images: Positive
    missing_labels: list[str]
    on_missing: Literal["drop", "keep"]
    limit: Positive | None


LABEL_COLUMNS: Final = ("attribute", "object", "title", "product_id")
"""What any CSV may say of an image, beside its ``image_path``."""


class FolderDataset(Section):
    path: str
    labels: str | None
    truth: list[Annotated[str, Field(min_length=1)]]
    on_missing: Literal["drop", "keep"]

    @field_validator("truth")
    @classmethod
    def _columns_of_truth(cls, groups: list[str]) -> list[str]:
        taken = [name for name in groups if name in ("image_path", *LABEL_COLUMNS)]
        if taken:
            raise ValueError(f"{taken[0]} is a column with a meaning of its own")
        if len(set(groups)) != len(groups):
            raise ValueError("names a column twice")
        return groups


class ArchiveFile(Section):
    """A file of a data set's publisher; size in bytes."""

    url: str
    size: Positive | None
    sha256: Sha256 | None


class UtZapposDataset(Section):
    path: str | None
    images: ArchiveFile
    splits: ArchiveFile
    truth: ArchiveFile | None


class MitStatesDataset(Section):
    path: str | None
    images: ArchiveFile
    splits: ArchiveFile


class CgqaDataset(Section):
    path: str | None
    images: ArchiveFile


class Download(Section):
    section: ClassVar[str] = "download"

    dataset: Literal["sample", "fashion_products", "ut_zappos", "mit_states", "cgqa", "folder"]
    max_rejected: Fraction
    max_pixels: Positive
    shard_mib: Positive
    sample: SampleDataset
    fashion_products: FashionProductsDataset
    ut_zappos: UtZapposDataset
    mit_states: MitStatesDataset
    cgqa: CgqaDataset
    folder: FolderDataset
