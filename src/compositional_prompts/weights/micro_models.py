"""The micro models that are trained from scratch: a CLIP, and a BLIP-2 on its image tower.

Only the image tower sees pixels. Text tower and BLIP-2 are trained against its features, which
are computed once, and know nothing of each other: where there are two cores, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from compositional_prompts.captioner.blip2_pretraining import pretrain_blip2
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.splitting.corpus_table import iterate_corpus
from compositional_prompts.clip.clip_pretraining import (
    MICRO_CONFIG,
    ImageFeatures,
    encode_images,
    micro_clip,
    pretrain_image_tower,
    pretrain_text_tower,
)
from compositional_prompts.compute.ordered_map import WorkerProcesses
from compositional_prompts.compute.precision import resolve_precision
from compositional_prompts.compute.progress import progress
from compositional_prompts.compute.side_by_side import SideBySide
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.files.outputs import naming
from compositional_prompts.pipeline.stage import log_as
from compositional_prompts.sample.drawn_products import generate_corpus
from compositional_prompts.weights.parameters import Pretrain


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
    size = MICRO_CONFIG["vision_cfg"]["image_size"]
    images = torch.empty(params.images, 3, size, size, dtype=torch.uint8)
    captions: list[str] = []
    rows = islice(_corpus_rows(params, table, seed, workers), params.images)
    for encoded, caption in progress(rows, "corpus", params.images):
        with naming(f"image {len(captions)} of the corpus"):
            images[len(captions)] = _micro_pixels(decode_rgb(encoded))
        captions.append(caption)
    if not captions:
        raise ValueError(
            f"{table} is empty, so there is nothing to pretrain on: set split.corpus to true and "
            "use a data set whose products have titles, or weights.pretrain.corpus: generated."
        )
    return Corpus(images[: len(captions)], captions)


@dataclass(frozen=True)
class MicroModels:
    """What was trained, in evaluation mode, on the CPU.

    Attributes:
        clip: the micro CLIP, where it was asked for.
        captioner: the micro BLIP-2, where it was asked for.
        rows: pairs that they were trained on.
    """

    clip: nn.Module | None
    captioner: Captioner | None
    rows: int


@dataclass(frozen=True)
class TextTraining:
    """What training the text tower takes, as it is sent to a process.

    Attributes:
        clip: the weights so far, as safetensors: tensors would be sent through shared memory,
            of which containers have little.
        image_features: the bytes of float32 ``[n, embed_dim]``.
        captions: ``n`` texts.
        params: of the pretraining.
        seed: as ``base.seed``.
        device: where to train.
        checkpoints: of it.
    """

    clip: bytes
    image_features: bytes
    captions: Sequence[str]
    params: Pretrain
    seed: int
    device: torch.device
    checkpoints: Checkpoints

    def run(self) -> bytes:
        """The trained weights of the CLIP, as safetensors."""
        model = micro_clip()
        model.load_state_dict(load(self.clip))
        features = torch.frombuffer(bytearray(self.image_features), dtype=torch.float32)
        with SideBySide(1) as threads:
            pretrain_text_tower(
                model,
                features.reshape(len(self.captions), -1),
                self.captions,
                epochs=self.params.clip_text_epochs,
                batch_size=self.params.clip_batch,
                learning_rate=self.params.clip_learning_rate,
                seed=self.seed,
                device=self.device,
                threads=threads,
                checkpoints=self.checkpoints,
            )
        return save(model.state_dict())


@dataclass(frozen=True)
class EncodedCorpus:
    """What text tower and BLIP-2 are trained on.

    Attributes:
        clip: a micro CLIP whose image tower is trained, in evaluation mode.
        features: what that tower makes of the images.
        captions: of them.
    """

    clip: nn.Module
    features: ImageFeatures
    captions: list[str]

    def state(self) -> dict[str, Any]:
        """It, as a checkpoint holds it."""
        return {"clip": self.clip.state_dict(), **vars(self.features), "captions": self.captions}

    @classmethod
    def of(cls, state: dict[str, Any]) -> EncodedCorpus:
        """That of which :meth:`state` was kept."""
        clip = micro_clip().eval()
        clip.load_state_dict(state["clip"])
        return cls(clip, ImageFeatures(state["pooled"], state["tokens"]), state["captions"])


def encoded_corpus(
    params: Pretrain,
    table: Path,
    checkpoints: Callable[[str], Checkpoints],
    *,
    seed: int,
    workers: int,
    device: torch.device,
    threads: SideBySide,
) -> EncodedCorpus:
    """Train the image tower on the corpus and encode that by it; arguments as
    :func:`pretrain_micro_models`.
    """
    finished = checkpoints("encoded_corpus")
    if (state := finished.load()) is not None:
        return EncodedCorpus.of(state)
    precision = resolve_precision(params.precision, device).precision
    corpus = read_corpus(params, table, seed, workers)
    model = pretrain_image_tower(
        corpus.images,
        corpus.captions,
        epochs=params.clip_image_epochs,
        batch_size=params.clip_batch,
        learning_rate=params.clip_learning_rate,
        matrix_learning_rate=params.clip_matrix_learning_rate,
        seed=seed,
        device=device,
        threads=threads,
        checkpoints=checkpoints("image_tower"),
        precision=precision,
        augment=params.augment,
    )
    # Text tower and BLIP-2 see one altered copy of each photo: to encode another in every epoch
    # would take as many passes of the image tower.
    features = encode_images(
        model,
        corpus.images,
        device,
        threads,
        precision,
        augmentation_seed=seed if params.augment else None,
    )
    encoded = EncodedCorpus(model, features, corpus.captions)
    finished.save(encoded.state())
    return encoded


def pretrain_micro_models(
    params: Pretrain,
    table: Path,
    checkpoints: Callable[[str], Checkpoints],
    *,
    clip: bool,
    captioner: bool,
    seed: int,
    workers: int,
    device: torch.device,
) -> MicroModels:
    """Train the micro models that are asked for.

    Args:
        params: on what and how long.
        table: of training images with titles, read if the corpus is the catalog's.
        checkpoints: those of each training by its name, so that a killed run goes on.
        clip: whether a CLIP is wanted.
        captioner: whether a BLIP-2 is.
        seed: each of the trainings begins from it.
        workers: processes; never changes a result.
        device: where to train.

    Raises:
        CheckpointError: a checkpoint is damaged.
        ValueError: the corpus has too few pairs.
        WorkerDiedError: a process was killed.
    """
    with SideBySide() as threads:
        encoded = encoded_corpus(
            params, table, checkpoints,
            seed=seed, workers=workers, device=device, threads=threads,
        )  # fmt: skip
        model, captions = encoded.clip, encoded.captions
        texts = TextTraining(
            save(model.state_dict()),
            encoded.features.pooled.numpy().tobytes(),
            captions,
            params,
            seed,
            device,
            checkpoints("text_tower"),
        )
        train_captioner = partial(
            pretrain_blip2,
            model,
            encoded.features.tokens,
            captions,
            epochs=params.blip2_epochs,
            batch_size=params.blip2_batch,
            learning_rate=params.blip2_learning_rate,
            matrix_learning_rate=params.blip2_matrix_learning_rate,
            seed=seed,
            device=device,
            threads=threads,
            checkpoints=checkpoints("blip2"),
            precision=resolve_precision(params.precision, device).precision,
        )
        made: Captioner | None
        trained: bytes | None
        if clip and captioner and workers > 1 and device.type == "cpu":
            # The process ends first, also where the training here fails: the thread waits for it.
            begin = partial(log_as, "weights")
            with ThreadPoolExecutor(1) as thread, WorkerProcesses(1, begin) as process:
                beside = thread.submit(_trained_beside, process, texts)
                made = train_captioner()
                trained = beside.result()
        else:
            trained = texts.run() if clip else None
            made = train_captioner() if captioner else None
    if trained is not None:
        model.load_state_dict(load(trained))
    return MicroModels(model if clip else None, made, len(captions))


def _trained_beside(process: WorkerProcesses, texts: TextTraining) -> bytes:
    """What the training gives in a process of its own."""
    (trained,) = process.map(TextTraining.run, [texts], in_flight=1, died=_text_training_died)
    return trained


def _text_training_died(first: TextTraining, last: TextTraining) -> str:
    return (
        "it trained the text tower of the micro CLIP: memory ran out, or it was killed. Set "
        "base.workers to 1, and text tower and BLIP-2 are trained one after the other."
    )
