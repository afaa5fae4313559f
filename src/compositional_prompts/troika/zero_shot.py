"""The baseline: the frozen CLIP itself, asked for ``a photo of {attribute} {object}``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compositional_prompts.clip.embedding import embed_texts
from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.prompt.pair import spoken_prompt
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.pair_scoring import ImageScores

TEXT_BATCH = 256
"""Prompts encoded at once."""


@dataclass(frozen=True)
class ZeroShotScores(ImageScores):
    """Images read by the frozen CLIP.

    Attributes:
        features: unit length times the temperature, ``[images, d]``.
        texts: unit length, of the candidates, ``[pairs, d]``.
        block_bytes: what a block of scores may take.
    """

    features: Tensor
    texts: Tensor
    block_bytes: int

    def __len__(self) -> int:
        return len(self.features)

    def blocks(self, candidates: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        columns = len(self.texts) if candidates is None else len(candidates)
        features, texts = self.features, self.texts
        wider = max(len(features), texts.shape[1])
        block = max(1, self.block_bytes // (wider * texts.element_size()))
        for start in range(0, columns, block):
            rows = slice(start, start + block)
            chosen = texts[rows if candidates is None else candidates[rows]]
            yield start, features @ chosen.T


class ZeroShot:
    """Scores pairs by CLIP's cosine of image and prompt times its temperature."""

    def __init__(self, clip: Clip, vocabulary: Vocabulary, pairs: Tensor, block_bytes: int) -> None:
        """Encode the prompts.

        Args:
            clip: the frozen CLIP.
            vocabulary: names of attributes and objects.
            pairs: attribute and object positions of the candidates, int64 ``[pairs, 2]``.
            block_bytes: what a block of scores may take; at least one pair is scored at once.
        """
        self.model = clip.model
        self.block_bytes = block_bytes
        temperature: Tensor = clip.model.logit_scale.detach().exp()  # type: ignore[operator, union-attr]
        self.temperature = temperature
        attributes, objects = vocabulary.attributes, vocabulary.objects
        dimension = embed_texts(clip, [], TEXT_BATCH).shape[1]
        self.texts = torch.empty(len(pairs), dimension, device=temperature.device)
        for start in range(0, len(pairs), TEXT_BATCH):
            rows = slice(start, start + TEXT_BATCH)
            prompts = [spoken_prompt(attributes[a], objects[o]) for a, o in pairs[rows].tolist()]
            self.texts[rows] = embed_texts(clip, prompts, TEXT_BATCH)

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> ZeroShotScores:
        """Read preprocessed images ``[batch, 3, size, size]``."""
        features = self.model.encode_image(pixel_values)  # type: ignore[operator]
        scaled = self.temperature * F.normalize(features, dim=-1)
        return ZeroShotScores(scaled, self.texts, self.block_bytes)
