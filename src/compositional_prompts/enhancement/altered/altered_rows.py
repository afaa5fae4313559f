"""Rows of altered photos: whatever is computed of a photo, computed of its altered copy."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.image_join import IDS_AT_ONCE, ImageJoin
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.clip.altered_photos import ALTERATIONS, randomly_altered
from compositional_prompts.compute.rows.computation import Computation, Item, Worker
from compositional_prompts.files.digests import content_digest


def altered_bytes(encoded: bytes, alteration: str) -> bytes:
    """An altered photo as an encoded image, without any further loss.

    Args:
        encoded: a photo of the catalog.
        alteration: one of :data:`~.altered_photos.ALTERATIONS`; any other name alters at random
            (:func:`~.altered_photos.randomly_altered`), by that name and the photo's bytes.
    """
    image = decode_rgb(encoded)
    if alteration in ALTERATIONS:
        altered = ALTERATIONS[alteration](image)
    else:
        seed = int.from_bytes(content_digest(encoded, alteration), "big")
        altered = randomly_altered(image, np.random.default_rng(seed))
    file = io.BytesIO()
    altered.save(file, "BMP")  # quick, and keeps every bit
    return file.getvalue()


@dataclass(frozen=True)
class AlteredPhotos(Computation):
    """Rows of another computation, of photos after an alteration.

    Attributes:
        of: the computation, of encoded photos.
        alteration: as in :func:`altered_bytes`.
    """

    name: ClassVar[str] = "altered_photo"

    of: Computation
    alteration: str
    batch_size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", self.of.batch_size)

    def settings(self) -> Mapping[str, Any]:
        return {"alteration": self.alteration, "of": self.of.name, "rows": self.of.identity()}

    @property
    def on_cpu(self) -> bool:
        return self.of.on_cpu

    def start(self) -> _AlteringWorker:
        return _AlteringWorker(self.of.start(), self.alteration)


@dataclass(frozen=True)
class AlteredInProcesses(AlteredPhotos):
    """The same, of a computation in processes."""

    in_processes: ClassVar[bool] = True


def of_altered(computation: Computation, alteration: str) -> AlteredPhotos:
    """``computation`` of altered photos, run as it is itself."""
    kind = AlteredInProcesses if computation.in_processes else AlteredPhotos
    return kind(computation, alteration)


class _AlteringWorker:
    def __init__(self, worker: Worker, alteration: str) -> None:
        self._worker = worker
        self._alteration = alteration

    def prepare(self, value: bytes) -> Any:
        return self._worker.prepare(altered_bytes(value, self._alteration))

    def compute(self, prepared: Sequence[Any]) -> NDArray[Any]:
        return self._worker.compute(prepared)


class ChosenPhotos:
    """The source of some of the catalog's photos, in its order, keyed by their content.

    Attributes:
        contents: the content of each, in the order in which they were asked for, ``V16 [n]``.
    """

    def __init__(self, catalog: Path, image_ids: Sequence[str], wanted_by: Path) -> None:
        """Look for them.

        Args:
            catalog: folder of shards.
            image_ids: without repeats.
            wanted_by: the table that names them, for errors.

        Raises:
            MissingOutputError, SchemaError: the catalog is not there, or not as declared.
            ImageJoinError: it lacks an image.
        """
        self._photos = CatalogPhotos(catalog)
        positions = np.empty(len(image_ids), np.int64)
        join = ImageJoin(image_ids, wanted_by, catalog)
        start = 0
        for batch in iterate_batches(catalog, ["image_id"], batch_size=IDS_AT_ONCE):
            places, rows = join.find(batch.column("image_id"))
            positions[places] = start + rows
            start += batch.num_rows
        join.check()
        self.contents: NDArray[np.void] = self._photos.keys[positions]
        self._positions = np.sort(positions)

    @property
    def keys(self) -> NDArray[np.void]:
        """The content of every photo, in the catalog's order, ``V16 [n]``."""
        return self._photos.keys[self._positions]

    def items(self, positions: NDArray[np.int64]) -> Iterator[Item]:
        """The photos at ascending positions among those chosen; their value is encoded bytes."""
        return self._photos.items(self._positions[positions])
