"""Decoded and resized images of a data set, held once for all epochs."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor

from compositional_prompts.catalog.decoding import decoded_batches
from compositional_prompts.catalog.image_join import ImageJoin
from compositional_prompts.catalog.reading import count_rows
from compositional_prompts.clip.open_clip_model import Clip

MEMORY_BYTES = 4 * 1024**3
"""Larger caches lie in an unlinked file instead, from which the system pages them in."""

DECODE_BATCH = 256
"""Images decoded at once."""

log = logging.getLogger(__name__)


def _require_space(size: int, folder: Path) -> None:
    """A mapped file takes its space as it is written: on a full disk that would kill the process.

    Raises:
        OSError: the file system of ``folder`` has no ``size`` bytes left.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(
            f"The decoded images take {size / 1024**3:.1f} GiB under {folder}, which has "
            f"{free / 1024**3:.1f} GiB left: make room there."
        )


def _allocate(shape: tuple[int, ...], scratch: Path) -> Tensor:
    if prod(shape) <= MEMORY_BYTES:
        return torch.empty(shape, dtype=torch.uint8)
    log.info("%.1f GiB of pixels are kept in a file under %s", prod(shape) / 1024**3, scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    _require_space(prod(shape), scratch)
    # The file has no name: whatever ends the run, its space is given back.
    with tempfile.TemporaryFile(dir=scratch) as file:
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))


def _allocate_shared(shape: tuple[int, ...], scratch: Path, accelerator: Accelerator) -> Tensor:
    """The same memory in all processes of a machine: a file that each of them maps."""
    if not prod(shape):
        return torch.empty(shape, dtype=torch.uint8)
    # The machines may share the folder, and not the memory.
    machine = accelerator.process_index - accelerator.local_process_index
    path = scratch / f".pixels-{machine}"
    if accelerator.is_local_main_process:
        scratch.mkdir(parents=True, exist_ok=True)
        _require_space(prod(shape), scratch)
        with path.open("wb") as file:
            file.truncate(prod(shape))
    accelerator.wait_for_everyone()
    mapped = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    accelerator.wait_for_everyone()
    # From here on it has no name: whatever ends the run, its space is given back.
    if accelerator.is_local_main_process:
        path.unlink()
    return torch.from_numpy(mapped)


def _local_share(rows: int, accelerator: Accelerator) -> range:
    """The rows that this process goes through, of those that share its machine."""
    local: list[int] = gather_object([accelerator.local_process_index])
    first = accelerator.process_index - accelerator.local_process_index
    after = [index for index, number in enumerate(local) if number == 0 and index > first]
    processes = min(after, default=len(local)) - first
    number = accelerator.local_process_index
    return range(rows * number // processes, rows * (number + 1) // processes)


class Normalizer:
    """Pixels 0..255 to CLIP's pixel_values and back."""

    def __init__(self, clip: Clip, device: torch.device) -> None:
        self.mean = torch.tensor(clip.mean, device=device).reshape(-1, 1, 1) * 255
        self.std = torch.tensor(clip.std, device=device).reshape(-1, 1, 1) * 255

    def to_pixel_values(self, pixels: Tensor) -> Tensor:
        """``[..., 3, size, size]`` in 0..255 to float32 pixel_values."""
        return (pixels.to(torch.float32) - self.mean) / self.std

    def to_pixels(self, pixel_values: Tensor) -> Tensor:
        """The inverse, rounded to uint8: exact for what :attr:`Clip.preprocess` returns."""
        return (pixel_values * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)


def decode_pixels(
    catalog: Path,
    clip: Clip,
    image_ids: Sequence[str],
    workers: int,
    scratch: Path,
    accelerator: Accelerator | None = None,
    wanted_by: Path | None = None,
) -> Tensor:
    """Decode, resize and crop images as CLIP's preprocessing does, without normalising them.

    Several processes of one machine hold the pixels once, and each decodes a part of them.

    Args:
        catalog: the catalog; it is streamed once.
        clip: whose preprocessing is used.
        image_ids: which images.
        workers: decoding threads.
        scratch: a directory for a cache that is larger than :data:`MEMORY_BYTES`, or shared.
        accelerator: the processes that call this together; by default this one alone.
        wanted_by: the table that names the images, for the error.

    Returns:
        Pixels 0..255 in the order of ``image_ids``, uint8 ``[images, 3, size, size]``.

    Raises:
        ImageJoinError: an image is not in the catalog.
        OSError: there is no space for the cache.
    """
    wanted = ImageJoin(image_ids, wanted_by, catalog)
    shape = (len(image_ids), 3, clip.image_size, clip.image_size)
    share = None
    if accelerator is not None and accelerator.num_processes > 1:
        pixels = _allocate_shared(shape, scratch, accelerator)
        share = _local_share(count_rows(catalog), accelerator)
    else:
        pixels = _allocate(shape, scratch)
    normalizer = Normalizer(clip, torch.device("cpu"))

    def decode(image: Image.Image) -> Tensor:
        return normalizer.to_pixels(clip.preprocess(image))

    for batch_ids, images in decoded_batches(catalog, decode, DECODE_BATCH, workers, share):
        places, rows = wanted.find(batch_ids)
        if len(rows):
            pixels[torch.from_numpy(places)] = torch.stack([images[row] for row in rows])
    if accelerator is not None and accelerator.num_processes > 1:
        # This also waits for what the others decode.
        found = torch.from_numpy(wanted.found).int().to(accelerator.device)
        wanted.found = accelerator.reduce(found, "sum").cpu().numpy() > 0
    wanted.check()
    return pixels
