"""The three soft prompts: learnable contexts around shared attribute and object vectors.

Source: Troika (CVPR 2024), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compositional_prompts.clip.lean_open_clip import CLIP
from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.prompt.pair import spoken
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary


class TextFeatures(NamedTuple):
    """Unit-length text features of the three branches.

    Attributes:
        composition: ``[pairs, d]``.
        attribute: ``[attributes, d]``; of no row where objects are named alone.
        object: ``[objects, d]``.
    """

    composition: Tensor
    attribute: Tensor
    object: Tensor


class Prompts(NamedTuple):
    """Prompts of all three branches, one after another.

    Attributes:
        tokens: embeddings without positions, ``[texts, tokens, width]``.
        ends: position of the end-of-text token, int64 ``[texts]``.
        sizes: how many are of pairs, of attributes and of objects.
    """

    tokens: Tensor
    ends: Tensor
    sizes: list[int]

    def split(self, features: Tensor) -> TextFeatures:
        """Features ``[texts, d]`` of the prompts, by branch."""
        return TextFeatures(*torch.split(features, self.sizes))


def _mean_word_vectors(clip: Clip, names: Sequence[str], context_length: int) -> Tensor:
    """Mean token embedding of each name, ``[names, width]``.

    A name longer than the context is cut, as the tokenizer of that context length would.
    """
    model = clip.model
    assert isinstance(model, CLIP)
    table = model.token_embedding.weight
    tokens = clip.tokenizer([spoken(name) for name in names]).to(table.device)
    end = tokens.argmax(dim=-1, keepdim=True).clamp(max=context_length - 1)
    position = torch.arange(tokens.shape[1], device=tokens.device)
    inside = ((position >= 1) & (position < end)).to(table.dtype)
    embedded = model.token_embedding(tokens)
    mean: Tensor = (embedded * inside[..., None]).sum(dim=1) / inside.sum(dim=1, keepdim=True)
    return mean


class SoftPrompts(nn.Module):
    """Prompts of the composition, attribute and object branch as token embeddings.

    ``[start] context attribute object [end] padding`` for a pair and ``[start] context word [end]
    padding`` for a primitive, ``context_length`` tokens each. Every branch has a context of its
    own; all three share the attribute and object vectors, which start as the mean token embedding
    of their words.

    Where images are named by objects alone, the prompt of a pair is that of its object,
    ``[start] context object [end] padding`` in the context of the composition branch; there is no
    attribute branch, and neither vectors nor a context of it.
    """

    start: Tensor
    composition_tail: Tensor
    primitive_tail: Tensor

    def __init__(
        self,
        clip: Clip,
        vocabulary: Vocabulary,
        context: str,
        context_length: int,
        dropout: float,
    ) -> None:
        """
        Raises:
            ValueError: the context has no words, or does not fit ``context_length``, or that is
                longer than the CLIP's own.
        """
        super().__init__()
        model = clip.model
        assert isinstance(model, CLIP)
        available = model.positional_embedding.shape[0]
        if context_length > available:
            raise ValueError(
                f"troika_train.context_length is {context_length}, but the CLIP encodes at most "
                f"{available} tokens: lower it."
            )
        device = model.token_embedding.weight.device
        tokens = clip.tokenizer([f"{context} x x"]).to(device)[0]
        end = int(tokens.argmax())
        context_tokens = end - 3
        if context_tokens < 1:
            raise ValueError("troika_train.context has no words: give it some, as 'a photo of'.")
        # A context longer than the CLIP's own loses its two last words to the tokenizer's cut.
        whole = int(tokens[end - 1]) == int(tokens[end - 2])
        if end >= context_length or not whole:
            raise ValueError(
                f"troika_train.context_length is {context_length}, but the context {context!r} "
                f"with an attribute, an object and the two end marks takes {end + 1} or more."
            )
        self.dropout = dropout
        with torch.no_grad():
            embedded = model.token_embedding(tokens)
            padding = model.token_embedding(
                torch.zeros(context_length, dtype=torch.long).to(device)
            )
            initial_context = embedded[1 : 1 + context_tokens]
            self.register_buffer("start", embedded[:1].clone(), persistent=False)
            self.register_buffer(
                "composition_tail",
                torch.cat([embedded[end : end + 1], padding[end + 1 :]]),
                persistent=False,
            )
            self.register_buffer(
                "primitive_tail",
                torch.cat([embedded[end : end + 1], padding[end:]]),
                persistent=False,
            )
            self.composition_context = nn.Parameter(initial_context.clone())
            alone = vocabulary.objects_alone
            self.attribute_context = None if alone else nn.Parameter(initial_context.clone())
            self.object_context = nn.Parameter(initial_context.clone())
            self.attribute_vectors = (
                None
                if alone
                else nn.Parameter(_mean_word_vectors(clip, vocabulary.attributes, context_length))
            )
            self.object_vectors = nn.Parameter(
                _mean_word_vectors(clip, vocabulary.objects, context_length)
            )
        self.composition_end = end - 1 if alone else end
        self.primitive_end = end - 1

    def _prompts(self, context: Tensor, words: Sequence[Tensor], tail: Tensor) -> Tensor:
        rows = words[0].shape[0]
        parts = [
            self.start.expand(rows, -1, -1),
            context.expand(rows, -1, -1),
            *(word.unsqueeze(1) for word in words),
            tail.expand(rows, -1, -1),
        ]
        return torch.cat(parts, dim=1)

    def _pair_prompts(self, attributes: Tensor | None, objects: Tensor, pairs: Tensor) -> Tensor:
        if attributes is None:
            words = [objects[pairs[:, 1]]]
            return self._prompts(self.composition_context, words, self.primitive_tail)
        words = [attributes[pairs[:, 0]], objects[pairs[:, 1]]]
        return self._prompts(self.composition_context, words, self.composition_tail)

    def encode_pairs(self, model: CLIP, pairs: Tensor) -> Tensor:
        """Encode ``pairs`` (int64 ``[pairs, 2]``) alone, without dropout: ``[pairs, d]``."""
        prompts = self._pair_prompts(self.attribute_vectors, self.object_vectors, pairs)
        ends = torch.full((len(pairs),), self.composition_end, device=prompts.device)
        return encode_prompts(model, prompts, ends)

    def prompts(self, pairs: Tensor) -> Prompts:
        """The prompts of ``pairs`` (int64 ``[pairs, 2]``) and of all words, to be encoded.

        Dropout is drawn once, so that the branches of one step share their word vectors.
        """
        attributes = None
        if self.attribute_vectors is not None:
            attributes = F.dropout(self.attribute_vectors, self.dropout, self.training)
        objects = F.dropout(self.object_vectors, self.dropout, self.training)
        parts = [self._pair_prompts(attributes, objects, pairs)]
        if attributes is not None and self.attribute_context is not None:
            parts.append(self._prompts(self.attribute_context, [attributes], self.primitive_tail))
        parts.append(self._prompts(self.object_context, [objects], self.primitive_tail))
        tokens = torch.cat(parts)
        ends = torch.full((tokens.shape[0],), self.primitive_end, device=tokens.device)
        ends[: pairs.shape[0]] = self.composition_end
        sizes = [pairs.shape[0], 0 if attributes is None else len(attributes), objects.shape[0]]
        return Prompts(tokens, ends, sizes)

    def forward(self, model: CLIP, pairs: Tensor) -> TextFeatures:
        """Encode ``pairs`` (attribute and object positions, int64 ``[pairs, 2]``) and all words."""
        prompts = self.prompts(pairs)
        return prompts.split(encode_prompts(model, prompts.tokens, prompts.ends))


def encode_prompts(model: CLIP, prompts: Tensor, ends: Tensor) -> Tensor:
    """The frozen text tower on token embeddings, read at the end-of-text token.

    Args:
        model: the CLIP.
        prompts: token embeddings without positions, ``[texts, tokens, width]``; ``tokens`` may be
            fewer than the CLIP's context length.
        ends: position of the end-of-text token, int64 ``[texts]``.

    Returns:
        Unit-length features ``[texts, d]``.
    """
    tokens = prompts.shape[1]
    mask = model.attn_mask
    x = prompts + model.positional_embedding[:tokens]
    x = model.transformer(x, attn_mask=None if mask is None else mask[:tokens, :tokens])
    x = model.ln_final(x)[torch.arange(x.shape[0], device=x.device), ends]
    projection = model.text_projection
    x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return F.normalize(x, dim=-1)
