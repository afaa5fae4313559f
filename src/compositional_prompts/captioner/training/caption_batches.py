"""One training step's worth of computing: batches, and the module that turns them into a loss."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from compositional_prompts.captioner.features.feature_store import ImageInputs
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.caption_tokens import RepeatedCaptions
from compositional_prompts.captioner.model.forward import (
    ScoredTokens,
    queries_of,
    score_places,
    scored_logits,
)
from compositional_prompts.catalog.splitting.split_images import split_images
from compositional_prompts.compute.ordered_map import map_in_threads
from compositional_prompts.compute.side_by_side import parts_of
from compositional_prompts.compute.training.training_run import Share
from compositional_prompts.enhancement.enhanced_prompts import prompts_of


class CaptionLoss(nn.Module):
    """Images and their captions to the loss, in one forward pass that Accelerate can wrap.

    In training mode the language model and the adapter are; the frozen vision tower and Q-Former
    stay in evaluation mode, as the cached features have it.
    """

    def __init__(self, captioner: Captioner, label_smoothing: float) -> None:
        super().__init__()
        self.model = captioner.model
        self._captioner = captioner
        self._label_smoothing = label_smoothing
        # What FSDP is to shard on its own, unless its configuration names other classes.
        self._no_split_modules = captioner.model.language_model._no_split_modules

    def train(self, mode: bool = True) -> CaptionLoss:
        super().train(False)
        self.training = mode
        self.model.language_model.train(mode)
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.lora_dropout.train(mode)
        return self

    def forward(
        self,
        inputs: Tensor,
        ids: Tensor,
        mask: Tensor | None,
        scored: Tensor | None,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of a batch's labelled tokens, and how many it got right.

        Args:
            inputs: query features or pixel_values, as :func:`queries_of` takes them.
            ids, mask, scored, labels: as :class:`ScoredTokens`.

        Returns:
            Float32 in nats, with label smoothing in training mode only; and int64. Both scalars.
        """
        with self._captioner.autocast():
            queries = queries_of(self.model, inputs)
            tokens = ScoredTokens(ids, mask, scored, labels)
            logits = scored_logits(self.model, queries, tokens).float()
        loss = F.cross_entropy(
            logits,
            labels,
            reduction="sum",
            label_smoothing=self._label_smoothing if self.training else 0.0,
        )
        correct = (logits.detach().argmax(-1) == labels).sum()
        return loss, correct


@dataclass(frozen=True)
class CaptionPairs:
    """Images and their captions, aligned."""

    image_ids: Sequence[str]
    captions: Sequence[str]

    @classmethod
    def read(
        cls, splits: Path, prompts: Path, split: str, images: int | None, seed: int
    ) -> CaptionPairs:
        """Images of a split, drawn as :func:`split_images` does, with their enhanced prompts."""
        image_ids = split_images(splits, split, images, seed).to_pylist()
        return cls(image_ids, prompts_of(prompts, image_ids, splits))

    @classmethod
    def titled(
        cls, splits: Path, titles: Mapping[str, str], split: str, images: int | None, seed: int
    ) -> CaptionPairs:
        """Images of a split that have a title, at most so many, with it.

        Args:
            splits: ``splits.parquet``.
            titles: by image_id, of those that have one.
            split: train or val.
            images: how many at most, a seeded sample of those with a title; None for all.
            seed: of the choice.
        """
        ids = [one for one in split_images(splits, split, None, seed).to_pylist() if one in titles]
        if images is not None and images < len(ids):
            ids = sorted(random.Random(seed).sample(ids, images))
        return cls(ids, [titles[image_id] for image_id in ids])


@dataclass(frozen=True)
class Batch:
    """What :class:`CaptionLoss` takes, on its device."""

    inputs: Tensor
    tokens: ScoredTokens

    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
        tokens = self.tokens
        return self.inputs, tokens.ids, tokens.mask, tokens.scored, tokens.labels


class CaptionBatches:
    """Images and captions of one split, read by row number."""

    def __init__(
        self,
        captioner: Captioner,
        inputs: ImageInputs,
        pairs: CaptionPairs,
        tokens: RepeatedCaptions,
    ) -> None:
        self._captioner = captioner
        self._inputs = inputs
        self._positions: NDArray[np.int64] = inputs.positions(pairs.image_ids)
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def labelled(self) -> Tensor:
        """Labelled tokens of each row, int64 ``[n]``."""
        return self.tokens.lengths - len(self._captioner.begin_of_text)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch augmented images are drawn for."""
        self._inputs.set_epoch(epoch)

    def images(self, rows: Tensor) -> Tensor:
        """Query features or pixel_values of the given rows, on the CPU."""
        return self._inputs.read(self._positions[rows.numpy()])

    def read(self, shares: Iterable[Share], *, parted: bool = False) -> Iterator[list[Batch]]:
        """The given shares of batches, the next ones read while the caller computes with one.

        Args:
            shares: which rows.
            parted: whether each comes in the parts that threads are to share, or whole.
        """
        device = self._captioner.device
        pin = device.type == "cuda"

        def place(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True) if pin else tensor

        def batch(rows: Tensor) -> Batch:
            tokens = score_places(self._captioner.model, self.tokens.select(rows))
            placed = ScoredTokens(
                place(tokens.ids),
                None if tokens.mask is None else place(tokens.mask),
                None if tokens.scored is None else place(tokens.scored),
                place(tokens.labels),
            )
            return Batch(place(self.images(rows)), placed)

        def load(share: Share) -> list[Batch]:
            if not parted:
                return [batch(share.rows)]
            return [batch(share.rows[part]) for part in parts_of(len(share.rows), device)]

        return map_in_threads(load, shares)
