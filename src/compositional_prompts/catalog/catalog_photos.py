"""The catalog's photos as what rows are computed of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.catalog.reading import iterate_batches, iterate_positions
from compositional_prompts.compute.rows.computation import KEY, Item
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.outputs import DamagedOutputError

KEYS_AT_ONCE = 65_536


def read_contents(catalog: Path) -> NDArray[np.void]:
    """The content digest of every image, ``V16 [images]``, in the catalog's order: 16 bytes an
    image.

    Raises:
        MissingOutputError, SchemaError: as :func:`iterate_batches`.
    """
    parts = [
        np.frombuffer(b"".join(batch.column("content").to_pylist()), KEY)
        for batch in iterate_batches(catalog, ["content"], batch_size=KEYS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.empty(0, KEY)


class CatalogPhotos:
    """The source whose items are encoded photos, in the catalog's order, keyed by their content."""

    def __init__(self, catalog: Path) -> None:
        """Read the contents.

        Raises:
            MissingOutputError, SchemaError: as :func:`read_contents`.
        """
        self._catalog = catalog
        self._keys = read_contents(catalog)

    @property
    def keys(self) -> NDArray[np.void]:
        """The content of every photo, ``V16 [images]``."""
        return self._keys

    def items(self, positions: NDArray[np.int64]) -> Iterator[Item]:
        """The photos at ascending positions; their value is the encoded bytes.

        Raises:
            DamagedOutputError: a photo's bytes are not those of its content; it is named.
        """
        done = 0
        for batch in iterate_positions(self._catalog, ["image_id", "image"], positions):
            keys = self._keys[positions[done : done + batch.num_rows]].tolist()
            images = batch.column("image").field("bytes").to_pylist()
            image_ids = batch.column("image_id").to_pylist()
            for key, image_id, image in zip(keys, image_ids, images, strict=True):
                # Decoders do not notice every wrong bit, and Parquet has no checksums of its own.
                if content_digest(image) != key:
                    raise DamagedOutputError(
                        f"{self._catalog} is damaged: the bytes of the photo {image_id!r} are not "
                        "those that its digest (content) is of.",
                        self._catalog,
                    )
                yield Item(key, image_id, image)
            done += batch.num_rows
