"""Scores of images and pairs in blocks of pairs, so that no matrix of both is ever whole.

A matrix product may sum in another order where its operands have other shapes. So blocks, and how
many images are scored together, change a score by rounding; which images they are, and in which
order, does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from compositional_prompts.troika.model.branch_scores import BranchScores
from compositional_prompts.troika.model.network import Troika, primitive_product
from compositional_prompts.troika.model.traction import Memory

MIB: Final = 2**20

CPU_BLOCK_MIB: Final = 16
"""What a block of images x pairs takes at most on a CPU: enough for its kernels to be at their
fastest."""


def kernel_block(device: str, wanted: int) -> int:
    """What a block of images x pairs may take, in MiB, where ``wanted`` fit into memory.

    On a CPU at most :data:`CPU_BLOCK_MIB`, so that every larger block gives the same bits; on a GPU
    as much as is wanted.

    Args:
        device: the type of a torch device.
        wanted: such as ``troika_predict.block_mib``.
    """
    return min(wanted, CPU_BLOCK_MIB) if device == "cpu" else wanted


class ImageScores(ABC):
    """Images of a batch, read once, whose pairs are scored when they are asked for.

    The candidates are the pairs that the scorer was made for, in its order.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Images."""

    @abstractmethod
    def blocks(self, candidates: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """Scores, a block of pairs after the other.

        Args:
            candidates: positions of the pairs wanted, int64 ``[columns]``; None: all in order.

        Yields:
            The block's first column and its scores, float ``[images, block]``; the columns follow
            one another without gaps.
        """

    def scores(self, candidates: Tensor | None = None) -> Tensor:
        """All blocks as one, ``[images, columns]``: for few pairs."""
        return torch.cat([scores for _, scores in self.blocks(candidates)], dim=1)


Scorer = Callable[[Tensor], ImageScores]
"""Reads preprocessed images ``[batch, 3, size, size]``."""


@dataclass(frozen=True)
class TroikaScores(ImageScores):
    """Images read by a trained model.

    Attributes:
        scorer: the model and the texts.
        features: unit-length features of the composition branch, ``[images, d]``.
        attributes: probabilities of all attributes, ``[images, attributes]``; 1, ``[images, 1]``,
            where images are named by objects alone.
        objects: probabilities of all objects, ``[images, objects]``.
        memories: what each layer of the traction reads of the composition branch's patches.
        zero_shot: the same images as the frozen CLIP scores them; None: nobody asks for it.
    """

    scorer: TroikaScorer
    features: Tensor
    attributes: Tensor
    objects: Tensor
    memories: Sequence[Memory]
    zero_shot: ImageScores | None

    def __len__(self) -> int:
        return len(self.features)

    def blocks(self, candidates: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        mix = self.scorer.model.config.score_mix
        for start, branches in self.branch_blocks(candidates):
            yield start, branches.joined(mix)

    def branch_blocks(self, candidates: Tensor | None = None) -> Iterator[tuple[int, BranchScores]]:
        """As :meth:`blocks`, with the branches apart."""
        pairs = self.scorer.pairs
        columns = len(pairs) if candidates is None else len(candidates)
        block = self.scorer.model.pairs_in(self.scorer.block_bytes, len(self))
        for start in range(0, columns, block):
            rows = slice(start, start + block)
            if candidates is None:
                chosen = torch.arange(start, min(rows.stop, columns), device=pairs.device)
            else:
                chosen = candidates[rows]
            yield start, self._branches(chosen)

    @torch.inference_mode()
    def _branches(self, candidates: Tensor) -> BranchScores:
        model, pairs = self.scorer.model, self.scorer.pairs[candidates]
        texts = self.scorer.texts[candidates]
        return BranchScores(
            model.cosines(self.features, texts, self.memories) * self.scorer.scale,
            primitive_product(self.attributes, self.objects, pairs),
            None if self.zero_shot is None else self.zero_shot.scores(candidates),
        )


class TroikaScorer:
    """Scores pairs by a trained model.

    Text features are computed once; keys and values of an image's patches once a batch.
    """

    def __init__(
        self, model: Troika, pairs: Tensor, block_bytes: int, zero_shot: Scorer | None = None
    ) -> None:
        """Encode the texts.

        Args:
            model: put into evaluation mode.
            pairs: attribute and object positions of the candidates, int64 ``[pairs, 2]``.
            block_bytes: what the widest activation of the traction may take, and of the text
                tower; at least one pair is scored at once.
            zero_shot: scores the same pairs by the frozen CLIP, of which the model's score may
                take a part.
        """
        self.model = model.eval()
        self.scale: Tensor = model.clip.logit_scale.detach().exp()
        self.pairs = pairs.to(self.scale.device)
        self.block_bytes = block_bytes
        self.zero_shot = zero_shot
        encoded = model.encode_text_in_blocks(self.pairs, block_bytes)
        self.texts = encoded.composition
        self._primitives = (encoded.attribute, encoded.object)

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> TroikaScores:
        """Read preprocessed images ``[batch, 3, size, size]``."""
        model = self.model
        images = model.encode_image(pixel_values)
        composition, *patches = model.branch_patches(images)
        memories = list(model.traction.memories(composition, len(self.pairs)))
        primitives = zip((images.attribute, images.object), self._primitives, patches, strict=True)
        attributes, objects = (self._probabilities(*branch) for branch in primitives)
        zero_shot = None if self.zero_shot is None else self.zero_shot(pixel_values)
        return TroikaScores(self, images.composition, attributes, objects, memories, zero_shot)

    def _probabilities(self, features: Tensor, texts: Tensor, patches: Tensor) -> Tensor:
        if not features.shape[1]:
            return self.model.no_attribute_logits(features).softmax(dim=-1)
        memories = list(self.model.traction.memories(patches, len(texts)))
        block = self.model.pairs_in(self.block_bytes, len(features))
        blocks = [self.model.cosines(features, part, memories) for part in texts.split(block)]
        return (torch.cat(blocks, dim=1) * self.scale).softmax(dim=-1)
