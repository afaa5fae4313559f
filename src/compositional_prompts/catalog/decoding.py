"""Images of a catalog, decoded in threads while a model computes, in stable order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.reading import iterate_batches

Decoded = TypeVar("Decoded")

PREFETCHED_BATCHES = 3
"""Decoded batches held ready: enough for decoding never to wait, little enough for any memory."""


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
    """

    def decode(encoded: bytes) -> Decoded:
        return transform(decode_rgb(encoded))

    def finished(batch: tuple[list[str], list[Future[Decoded]]]) -> tuple[list[str], list[Decoded]]:
        image_ids, images = batch
        return image_ids, [image.result() for image in images]

    pending: deque[tuple[list[str], list[Future[Decoded]]]] = deque()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for batch in iterate_batches(catalog, ["image_id", "image"], rows, batch_size):
            images = batch.column("image").field("bytes").to_pylist()
            futures = [pool.submit(decode, encoded) for encoded in images]
            pending.append((batch.column("image_id").to_pylist(), futures))
            if len(pending) > PREFETCHED_BATCHES:
                yield finished(pending.popleft())
        while pending:
            yield finished(pending.popleft())
