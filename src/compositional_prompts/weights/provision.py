"""The pretrained models: from the hub, from a path, or trained small from scratch.

Whatever the source, the same files lie in the three folders afterwards: open_clip's layout for
the CLIPs, transformers' for BLIP-2.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from compositional_prompts.captioner.blip2_pretraining import pretrain_blip2, save_micro_captioner
from compositional_prompts.captioner.model.blip2_sources import fetch_captioner
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.splitting.corpus_table import iterate_corpus
from compositional_prompts.clip.clip_pretraining import MICRO_CONFIG, pretrain_clip
from compositional_prompts.clip.clip_sources import fetch_clip
from compositional_prompts.clip.open_clip_model import save_clip
from compositional_prompts.compute.progress import progress
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.sample.drawn_products import generate_corpus
from compositional_prompts.weights.parameters import Pretrain, Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Pretraining pairs: uint8 images ``[n, 3, H, W]`` at the micro models' size, and captions."""

    images: Tensor
    captions: list[str]


def _micro_pixels(image: Image.Image) -> Tensor:
    size = MICRO_CONFIG["vision_cfg"]["image_size"]
    pixels: Tensor = pil_to_tensor(image.resize((size, size), Image.Resampling.BICUBIC))
    return pixels


def _corpus_rows(params: Pretrain, table: Path, seed: int, workers: int) -> Iterator[Any]:
    if params.corpus == "catalog":
        return iterate_corpus(table)
    return ((row.image, row.caption) for row in generate_corpus(params.images, seed, workers))


def read_corpus(params: Pretrain, table: Path, seed: int, workers: int) -> Corpus:
    """The first ``params.images`` pairs of the corpus, generated or from ``table``.

    Raises:
        ValueError: there is no pair.
    """
    images: list[Tensor] = []
    captions: list[str] = []
    rows = islice(_corpus_rows(params, table, seed, workers), params.images)
    for encoded, caption in progress(rows, "corpus", params.images):
        images.append(_micro_pixels(decode_rgb(encoded)))
        captions.append(caption)
    if not captions:
        raise ValueError(
            f"{table} is empty, so there is nothing to pretrain on: set split.corpus to true and "
            "use a data set whose products have titles, or weights.pretrain.corpus: generated."
        )
    return Corpus(torch.stack(images), captions)


class _MicroModels:
    """The corpus and the micro CLIP, made at the first need of them and then shared."""

    def __init__(
        self, params: Pretrain, table: Path, seed: int, workers: int, device: torch.device
    ) -> None:
        self._params = params
        self._read: Callable[[], Corpus] = lambda: read_corpus(params, table, seed, workers)
        self._seed = seed
        self._device = device
        self._corpus: Corpus | None = None
        self._clip: nn.Module | None = None

    @property
    def corpus(self) -> Corpus:
        if self._corpus is None:
            self._corpus = self._read()
        return self._corpus

    @property
    def clip(self) -> nn.Module:
        if self._clip is None:
            self._clip = pretrain_clip(
                self.corpus.images,
                self.corpus.captions,
                image_epochs=self._params.clip_image_epochs,
                text_epochs=self._params.clip_text_epochs,
                batch_size=self._params.clip_batch,
                learning_rate=self._params.clip_learning_rate,
                seed=self._seed,
                device=self._device,
            )
        return self._clip

    def save_clip(self, directory: Path) -> None:
        save_clip(self.clip, MICRO_CONFIG, directory)

    def save_captioner(self, directory: Path) -> None:
        captioner = pretrain_blip2(
            self.clip,
            self.corpus.images,
            self.corpus.captions,
            epochs=self._params.blip2_epochs,
            batch_size=self._params.blip2_batch,
            learning_rate=self._params.blip2_learning_rate,
            seed=self._seed,
            device=self._device,
        )
        save_micro_captioner(captioner, directory)

    @property
    def rows(self) -> int:
        """Pairs that were read; 0 where nothing was pretrained."""
        return 0 if self._corpus is None else len(self._corpus.captions)


def provide_weights(
    params: Weights,
    *,
    corpus: Path,
    clip: Path,
    troika_clip: Path,
    blip2: Path,
    seed: int,
    workers: int,
    device: torch.device,
) -> int:
    """Fill the three model folders as the parameters say.

    Args:
        params: where each model comes from.
        corpus: table of training images with titles (schema CORPUS), read if it is asked for.
        clip: folder of the CLIP that embeds images and words.
        troika_clip: folder of the CLIP that Troika adapts.
        blip2: folder of the captioner.
        seed: of everything that is trained.
        workers: processes that draw a generated corpus.
        device: where to train.

    Returns:
        The number of image-caption pairs pretrained on; 0 where nothing was.
    """
    micro = _MicroModels(params.pretrain, corpus, seed, workers, device)
    with atomic_directory(clip) as directory:
        if params.clip.source == "pretrain":
            micro.save_clip(directory)
        else:
            fetch_clip(
                params.clip.source,
                params.clip.name,
                params.clip.pretrained,
                params.clip.revision,
                directory,
            )
    with atomic_directory(troika_clip) as directory:
        if params.troika_clip.source == "same":
            shutil.copytree(clip, directory, dirs_exist_ok=True)
        elif params.troika_clip.source == "pretrain":
            micro.save_clip(directory)
        else:
            assert params.troika_clip.name is not None  # params.TroikaClipSource sees to it
            fetch_clip(
                params.troika_clip.source,
                params.troika_clip.name,
                params.troika_clip.pretrained,
                params.troika_clip.revision,
                directory,
            )
    with atomic_directory(blip2) as directory:
        if params.blip2.source == "pretrain":
            micro.save_captioner(directory)
        else:
            fetch_captioner(
                params.blip2.source, params.blip2.name, params.blip2.revision, directory
            )
    return micro.rows
