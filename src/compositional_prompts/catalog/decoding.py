"""Images of a catalog, decoded in threads while a model computes, in stable order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from PIL import Image

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.compute.ordered_map import READ_AHEAD, batched, map_in_threads
from compositional_prompts.files.outputs import naming

Decoded = TypeVar("Decoded")


def decoded_batches(
    catalog: Path,
    transform: Callable[[Image.Image], Decoded],
    batch_size: int,
    workers: int,
    rows: range | None = None,
) -> Iterator[tuple[list[str], list[Decoded]]]:
    """Stream the images of ``catalog`` through ``transform`` while the caller computes.

    Pillow releases the interpreter lock while it decodes and resizes, so threads overlap with
    the model and need no start-up of their own.

    Yields:
        The image_ids of a batch and its transformed images, in the order of the catalog; only
        the last batch is smaller than ``batch_size``.

    Raises:
        UndecodableImageError, MemoryError: an image cannot be decoded; it is named.
    """

    def encoded() -> Iterator[tuple[str, bytes]]:
        for batch in iterate_batches(catalog, ["image_id", "image"], rows, batch_size):
            images = batch.column("image").field("bytes").to_pylist()
            yield from zip(batch.column("image_id").to_pylist(), images, strict=True)

    def decode(image: tuple[str, bytes]) -> tuple[str, Decoded]:
        with naming(image[0]):
            return image[0], transform(decode_rgb(image[1]))

    images = map_in_threads(decode, encoded(), workers=workers, in_flight=READ_AHEAD * batch_size)
    for batch in batched(images, batch_size):
        image_ids, transformed = zip(*batch, strict=True)
        yield list(image_ids), list(transformed)
