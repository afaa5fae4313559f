"""The frozen half of BLIP-2 over a whole catalog, decoding overlapped with the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from compositional_prompts.batching import decoded_batches
from compositional_prompts.captioner.features import write_features
from compositional_prompts.captioner.forward import query_features
from compositional_prompts.captioner.loading import Captioner
from compositional_prompts.catalog.reading import count_rows
from compositional_prompts.stage import progress


@torch.inference_mode()
def compute_features(
    captioner: Captioner, catalog: Path, out: Path, *, batch_size: int, workers: int
) -> int:
    """Run the frozen half over every image of ``catalog`` once; return the number of images."""
    batches = decoded_batches(catalog, captioner.preprocess, batch_size, workers)
    total = -(-count_rows(catalog) // batch_size)
    device = captioner.device

    def computed() -> Iterable[tuple[list[str], NDArray[np.float16]]]:
        for image_ids, pixel_values in progress(batches, "features", total):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                features = query_features(captioner.model, pixel_values.to(device))
            yield image_ids, features.cpu().to(torch.float16).numpy()

    return write_features(computed(), out)
