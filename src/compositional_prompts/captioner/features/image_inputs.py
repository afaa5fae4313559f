"""What the captioner is fed from: the cache, or images where ``data/features/`` has none."""

from __future__ import annotations

from pathlib import Path

import torch

from compositional_prompts.captioner.features.feature_store import (
    FeatureStore,
    ImageInputs,
    read_metadata,
)
from compositional_prompts.captioner.features.pixel_inputs import PixelInputs
from compositional_prompts.captioner.model.blip2_model import Captioner, load_captioner
from compositional_prompts.captioner.parameters import augmentation_fault
from compositional_prompts.pipeline.section import Precision


def load_for_inputs(
    blip2: Path, features: Path, device: torch.device, precision: Precision
) -> Captioner:
    """The captioner of :func:`open_inputs`: without its frozen half where the features are cached.

    Raises:
        As :func:`load_captioner`, and MissingOutputError where there are no features.
    """
    cached = read_metadata(features)["cache"]
    return load_captioner(blip2, device, precision, "language" if cached else "whole")


def open_inputs(
    features: Path,
    catalog: Path,
    captioner: Captioner,
    *,
    workers: int,
    augment: bool = False,
    seed: int = 0,
) -> ImageInputs:
    """Open the cached features, or the images where ``blip2_features.cache`` was false.

    Args:
        features: ``data/features/``.
        catalog: ``data/catalog/``, which is read where nothing is cached.
        captioner: preprocesses images.
        workers: threads that decode them.
        augment: whether they are cropped and flipped at random.
        seed: of augmentation.

    Raises:
        FileNotFoundError: the cache, or where there is none the catalog, is missing.
        ValueError: cached features are to be augmented, or the cache is damaged.
    """
    if not read_metadata(features)["cache"]:
        return PixelInputs(
            catalog, captioner.preprocess, workers=workers, augment=augment, seed=seed
        )
    if fault := augmentation_fault(True, augment):
        raise ValueError(fault)
    return FeatureStore(features)
