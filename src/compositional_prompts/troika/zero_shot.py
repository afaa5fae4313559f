"""The baseline: the frozen CLIP itself, asked for ``a photo of {attribute} {object}``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compositional_prompts.clip.embedding import embed_texts
from compositional_prompts.clip.loading import Clip
from compositional_prompts.troika.vocabulary import Vocabulary, spoken

TEXT_BATCH = 256
"""Prompts encoded at once."""


class ZeroShot:
    """Scores pairs by CLIP's cosine of image and prompt times its temperature."""

    def __init__(self, clip: Clip, vocabulary: Vocabulary) -> None:
        self.model = clip.model
        prompts = [
            f"a photo of {spoken(attribute)} {spoken(name)}" for attribute, name in vocabulary.pairs
        ]
        temperature: Tensor = clip.model.logit_scale.exp()  # type: ignore[operator]
        self.temperature = temperature
        self.texts = embed_texts(clip, prompts, TEXT_BATCH).to(temperature.device)

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Scores of preprocessed images ``[batch, 3, size, size]``, ``[batch, pairs]``."""
        features = self.model.encode_image(pixel_values)  # type: ignore[operator]
        scores: Tensor = self.temperature * F.normalize(features, dim=-1) @ self.texts.T
        return scores
