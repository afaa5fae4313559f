"""Troika: three prompt branches on a frozen CLIP with adapters and Cross-Modal Traction.

Source: "Troika: Multi-Path Cross-Modal Traction for Compositional Zero-Shot Learning", CVPR 2024,
section 3. docs/troika.md has the equations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compositional_prompts.clip.lean_open_clip import CLIP
from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.compute.side_by_side import SideBySide, in_parts, parts_of
from compositional_prompts.troika.model.branch_scores import BranchScores, ScoreMix
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.model.soft_prompts import (
    SoftPrompts,
    TextFeatures,
    encode_prompts,
)
from compositional_prompts.troika.model.traction import MLP_RATIO, CrossModalTraction, Memory
from compositional_prompts.troika.model.vision_adapters import VisionAdapters, require_supported
from compositional_prompts.troika.parameters import TroikaTrain

BLOCK_BYTES = 64 * 1024**2
"""Memory that the widest activation of the traction may take when no gradient is wanted."""


TEXT_MLP_RATIO = 4
"""Width of the MLP of CLIP's text tower over that of its tokens, as open_clip builds it."""


@dataclass(frozen=True)
class TroikaConfig:
    """What defines a trained model besides its tensors; fields as in ``params.yaml``."""

    adapter_dim: int
    adapter_dropout: float
    context: str
    context_length: int
    attribute_dropout: float
    disentangler_dropout: float
    traction_layers: int
    traction_dropout: float
    composition_score_weight: float
    primitives_score_weight: float
    zero_shot_score_weight: float = 0.0  # models of before it was there have none

    @property
    def score_mix(self) -> ScoreMix:
        """What the score of a pair is made of."""
        return ScoreMix(
            self.composition_score_weight,
            self.primitives_score_weight,
            self.zero_shot_score_weight,
        )

    def scored_by(self, mix: ScoreMix) -> TroikaConfig:
        """The same model with other weights of the score."""
        return replace(
            self,
            composition_score_weight=mix.composition,
            primitives_score_weight=mix.primitives,
            zero_shot_score_weight=mix.zero_shot,
        )

    @classmethod
    def from_params(cls, params: TroikaTrain) -> TroikaConfig:
        return cls(
            adapter_dim=params.adapter_dim,
            adapter_dropout=params.adapter_dropout,
            context=params.context,
            context_length=params.context_length,
            attribute_dropout=params.attribute_dropout,
            disentangler_dropout=params.disentangler_dropout,
            traction_layers=params.traction_layers,
            traction_dropout=params.traction_dropout,
            composition_score_weight=params.score_weights.composition,
            primitives_score_weight=params.score_weights.primitives,
            zero_shot_score_weight=params.score_weights.zero_shot,
        )


class ImageFeatures(NamedTuple):
    """Features of a batch of images.

    Attributes:
        composition: unit length, ``[batch, d]``.
        attribute: unit length, disentangled for attributes, ``[batch, d]``; of no number, ``[batch,
            0]``, where images are named by objects alone.
        object: unit length, disentangled for objects, ``[batch, d]``.
        tokens: projected class token and patches, not normalised, ``[batch, 1 + patches, d]``.
    """

    composition: Tensor
    attribute: Tensor
    object: Tensor
    tokens: Tensor


class BranchLogits(NamedTuple):
    """Cosines times CLIP's temperature, float32 (float64 in a float64 model).

    Attributes:
        composition: ``[batch, pairs]``.
        attribute: ``[batch, attributes]``; 0, ``[batch, 1]``, where images are named by objects
            alone: the absent attribute has a probability of 1.
        object: ``[batch, objects]``.
    """

    composition: Tensor
    attribute: Tensor
    object: Tensor


class Disentangler(nn.Module):
    """Linear, batch norm, ReLU, dropout: ``[batch, d]`` to ``[batch, d]``."""

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension, dimension)
        self.norm = nn.BatchNorm1d(dimension)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        disentangled: Tensor = self.dropout(F.relu(self.norm(self.linear(features))))
        return disentangled


class Troika(nn.Module):
    """The model. CLIP is frozen and always in evaluation mode; everything else is trained.

    Where the labels are objects alone, the attribute branch is not there: the prompt of a pair is
    that of its object, in a context of its own, and a score is made of composition and object.
    """

    def __init__(self, clip: Clip, vocabulary: Vocabulary, config: TroikaConfig) -> None:
        """
        Raises:
            UnsupportedClipError: the CLIP is no plain vision-transformer CLIP.
            ValueError: the context does not fit the context length.
        """
        super().__init__()
        require_supported(clip.model)
        assert isinstance(clip.model, CLIP)
        clip.model.eval().requires_grad_(False)
        self.clip = clip.model
        self.config = config
        dimension = clip.model.visual.output_dim
        self.adapters = VisionAdapters(
            clip.model.visual, config.adapter_dim, config.adapter_dropout
        )
        self.prompts = SoftPrompts(
            clip, vocabulary, config.context, config.context_length, config.attribute_dropout
        )
        self.attribute_disentangler = (
            None
            if vocabulary.objects_alone
            else Disentangler(dimension, config.disentangler_dropout)
        )
        self.object_disentangler = Disentangler(dimension, config.disentangler_dropout)
        self.patch_norm = nn.LayerNorm(dimension)
        self.traction = CrossModalTraction(
            dimension, config.traction_layers, config.traction_dropout
        )
        self.to(clip.model.logit_scale.device)

    def train(self, mode: bool = True) -> Troika:
        """Set training mode of the trained parts; CLIP keeps evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """Trained parameters and batch-norm statistics by name; nothing of CLIP."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("clip.")
        }

    def encode_text(self, pairs: Tensor) -> TextFeatures:
        """Text features of ``pairs`` (int64 ``[pairs, 2]``), of all attributes and objects.

        They depend on no image, so that evaluation computes them once.
        """
        features: TextFeatures = self.prompts(self.clip, pairs)
        return features

    @torch.inference_mode()
    def encode_text_in_blocks(self, pairs: Tensor, block_bytes: int) -> TextFeatures:
        """As :meth:`encode_text` in evaluation mode, so many pairs at once as fit.

        The widest activation of the text tower takes ``block_bytes`` at most, so that memory grows
        by the features alone: ``4 d`` bytes a pair.
        """
        _, attribute, object_ = self.encode_text(pairs[:0])
        texts = attribute.new_empty(len(pairs), attribute.shape[1])
        width = self.config.context_length * self.prompts.object_vectors.shape[1]
        block = max(1, block_bytes // (width * TEXT_MLP_RATIO * texts.element_size()))
        for start in range(0, len(pairs), block):
            rows = slice(start, start + block)
            texts[rows] = self.prompts.encode_pairs(self.clip, pairs[rows])
        return TextFeatures(texts, attribute, object_)

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """Image features of preprocessed images ``[batch, 3, size, size]``."""
        return self._image_features(self.adapters(self.clip.visual, pixel_values))

    def _image_features(self, tokens: Tensor) -> ImageFeatures:
        """Of projected tokens ``[batch, 1 + patches, d]``; batch norm sees the whole batch."""
        pooled = tokens[:, 0]
        if self.attribute_disentangler is None:
            attribute = pooled[:, :0]
        else:
            attribute = F.normalize(self.attribute_disentangler(pooled), dim=-1)
        return ImageFeatures(
            composition=F.normalize(pooled, dim=-1),
            attribute=attribute,
            object=F.normalize(self.object_disentangler(pooled), dim=-1),
            tokens=tokens,
        )

    def branch_patches(self, images: ImageFeatures) -> Iterator[Tensor]:
        """The tokens as the composition, attribute and object branch read them, in this order.

        They are layer-normed again for each branch: once for composition, twice for attributes,
        three times for objects, as in the authors' code, whether there is an attribute branch or
        not. Each is ``[batch, 1 + patches, d]``.
        """
        patches = images.tokens
        for _ in BranchLogits._fields:
            patches = self.patch_norm(patches)
            yield patches

    def cosines(self, features: Tensor, texts: Tensor, memories: Iterable[Memory]) -> Tensor:
        """Cosines of images and of texts drawn towards their patches, float32 or wider.

        Args:
            features: unit-length image features of a branch, ``[batch, d]``.
            texts: unit-length text features of that branch, ``[texts, d]``.
            memories: of the branch's patches, from ``traction.memories``.

        Returns:
            ``[batch, texts]``.
        """
        drawn = self.traction(texts, memories)
        # In half precision a cosine times the temperature is off by up to half a logit.
        with torch.autocast(features.device.type, enabled=False):
            dtype = torch.promote_types(features.dtype, torch.float32)
            return torch.einsum("bd,bkd->bk", features.to(dtype), drawn.to(dtype))

    def pairs_in(self, block_bytes: int, images: int) -> int:
        """How many texts go through the traction at once for so many images, at least one.

        The widest activation, that of the MLP, then takes ``block_bytes`` at most.
        """
        gain = self.traction.gain
        return max(1, block_bytes // (images * len(gain) * MLP_RATIO * gain.element_size()))

    def branch_logits(self, images: ImageFeatures, texts: TextFeatures) -> BranchLogits:
        """Logits of the three branches.

        Without gradients the texts go through the traction in blocks, so that the memory of its
        activations does not grow with the number of pairs.
        """
        scale = self.clip.logit_scale.exp()
        logits = []
        for features, text, patches in zip(
            images[:3], texts, self.branch_patches(images), strict=True
        ):
            if not features.shape[1]:
                logits.append(self.no_attribute_logits(features))
                continue
            if torch.is_grad_enabled():
                cosines = self.cosines(features, text, self.traction.memories(patches, len(text)))
            else:
                memories = list(self.traction.memories(patches, len(text)))
                blocks = text.split(self.pairs_in(BLOCK_BYTES, len(features)))
                cosines = torch.cat([self.cosines(features, b, memories) for b in blocks], dim=1)
            logits.append(cosines * scale)
        return BranchLogits(*logits)

    @staticmethod
    def no_attribute_logits(features: Tensor) -> Tensor:
        """Of images named by objects alone the logit of the attribute that there is not."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        return features.new_zeros(len(features), 1, dtype=dtype)

    def forward(self, pixel_values: Tensor, pairs: Tensor) -> BranchLogits:
        """Logits of images ``[batch, 3, size, size]`` for ``pairs`` (int64 ``[pairs, 2]``)."""
        return self.branch_logits(self.encode_image(pixel_values), self.encode_text(pairs))

    def forward_in_parts(
        self, pixel_values: Tensor, pairs: Tensor, threads: SideBySide
    ) -> BranchLogits:
        """As :meth:`forward`, some of the images and prompts in each thread.

        Between the two towers and the traction all meet: batch norm is of the whole batch.
        """
        prompts = self.prompts.prompts(pairs)
        rows = parts_of(len(pixel_values), pixel_values.device)
        texts = torch.arange(len(prompts.ends)).tensor_split(len(rows))

        def encode(pixels: Tensor, tokens: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
            encoded = encode_prompts(self.clip, tokens, ends)
            return self.adapters(self.clip.visual, pixels), encoded

        encoded = in_parts(
            encode,
            [
                (pixel_values[image], prompts.tokens[text], prompts.ends[text])
                for image, text in zip(rows, texts, strict=True)
            ],
            [],
            list(self.adapters.parameters()),
            threads,
        )
        tokens, text_features = (torch.cat(one) for one in zip(*encoded, strict=True))
        images = self._image_features(tokens)

        def draw(*features: Tensor) -> BranchLogits:
            own = len(ImageFeatures._fields)
            return self.branch_logits(ImageFeatures(*features[:own]), TextFeatures(*features[own:]))

        logits = in_parts(
            draw,
            [[feature[image] for feature in images] for image in rows],
            prompts.split(text_features),
            [*self.patch_norm.parameters(), *self.traction.parameters()],
            threads,
        )
        return BranchLogits(*(torch.cat(one) for one in zip(*logits, strict=True)))

    def pair_scores(
        self, logits: BranchLogits, pairs: Tensor, zero_shot: Tensor | None = None
    ) -> Tensor:
        """Score of each pair, ``[batch, pairs]``.

        The weighted composition logit plus the weighted product of the softmax probabilities of
        the pair's attribute and of its object (equation of inference, section 3.4), and what the
        configuration takes of the frozen CLIP's logits.

        Args:
            logits: of the branches.
            pairs: int64 ``[pairs, 2]``.
            zero_shot: logits of the frozen CLIP, ``[batch, pairs]``, where they have a weight.

        Raises:
            ValueError: they have one, and are not given.
        """
        attributes, objects = logits.attribute.softmax(dim=-1), logits.object.softmax(dim=-1)
        primitives = primitive_product(attributes, objects, pairs)
        branches = BranchScores(logits.composition, primitives, zero_shot)
        return branches.joined(self.config.score_mix)


def primitive_product(attributes: Tensor, objects: Tensor, pairs: Tensor) -> Tensor:
    """Probability of each pair's attribute times that of its object, ``[batch, pairs]``.

    Args:
        attributes: softmax over all attributes, ``[batch, attributes]``.
        objects: softmax over all objects, ``[batch, objects]``.
        pairs: int64 ``[pairs, 2]``.
    """
    return attributes[:, pairs[:, 0]] * objects[:, pairs[:, 1]]
