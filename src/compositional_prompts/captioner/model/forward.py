"""What is computed from the two halves of BLIP-2.

The frozen half (vision tower and Q-Former) turns an image into query features; the other half
(projection and language model) turns query features into a caption. Both are driven from here
with embeddings rather than through image placeholders in the text: the result is the same, and
checkpoints with and without an image token, or a ``num_query_tokens``, need no special case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Blip2ForConditionalGeneration

from compositional_prompts.captioner.model.caption_tokens import CaptionTokens

IGNORED = -100
"""Label of a position that is not text: images and pads (the index cross_entropy ignores)."""


def queries_of(model: Blip2ForConditionalGeneration, inputs: Tensor) -> Tensor:
    """Query features ``[n, queries, width]`` of a batch of images.

    Args:
        model: the BLIP-2.
        inputs: query features from the cache, which are returned as they are, or pixel_values
            ``[n, 3, H, W]``, which the frozen half is run on.
    """
    return inputs if inputs.ndim == 3 else query_features(model, inputs)


def query_features(model: Blip2ForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """The frozen half: pixel_values ``[n, 3, H, W]`` to query features ``[n, queries, width]``.

    Equal to what the whole model computes in evaluation mode, before its projection.
    """
    return attend_queries(model, model.vision_model(pixel_values=pixel_values).last_hidden_state)


def attend_queries(model: Blip2ForConditionalGeneration, image_embeds: Tensor) -> Tensor:
    """The Q-Former: vision tokens ``[n, tokens, d]`` to query features ``[n, queries, width]``."""
    output: Tensor = model.qformer(
        query_embeds=model.query_tokens.expand(len(image_embeds), -1, -1),
        encoder_hidden_states=image_embeds,
        encoder_attention_mask=torch.ones(image_embeds.shape[:-1], device=image_embeds.device),
    ).last_hidden_state
    return output


def caption_logits(
    model: Blip2ForConditionalGeneration, queries: Tensor, tokens: CaptionTokens
) -> tuple[Tensor, Tensor]:
    """Teacher-forced logits of captions given query features.

    Args:
        model: a BLIP-2 with a decoder-only (OPT) or an encoder-decoder (T5) language model.
        queries: query features ``[n, queries, width]``.
        tokens: the captions.

    Returns:
        Logits ``[n, t, vocabulary]`` and labels ``[n, t]`` aligned with them (position ``i`` of
        the logits predicts label ``i``); labels of images and pads are :data:`IGNORED`.
    """
    language_model = model.language_model
    images = model.language_projection(queries.to(model.language_projection.weight.dtype))
    labels = tokens.ids.masked_fill(tokens.mask == 0, IGNORED)
    if not model.config.use_decoder_only_language_model:
        logits: Tensor = language_model(inputs_embeds=images, labels=labels).logits
        return logits, labels
    inputs = torch.cat([images, model.get_input_embeddings()(tokens.ids).to(images.dtype)], dim=1)
    attention = torch.cat([tokens.mask.new_ones(images.shape[:2]), tokens.mask], dim=1)
    # Text begins with the constant begin-of-text token: predicting it is not scored, and no logits
    # are computed at image positions.
    kept = tokens.ids.shape[1]
    logits = language_model(
        inputs_embeds=inputs, attention_mask=attention, logits_to_keep=kept
    ).logits
    return logits[:, :-1], labels[:, 1:]


def caption_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled positions, in float32."""
    return F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="mean"
    )


@dataclass(frozen=True)
class ScoredTokens:
    """Captions with the places where the next token is scored, worked out on the CPU, where
    asking for them waits for no device.

    Attributes:
        ids: int64 ``[n, t]``, as :class:`CaptionTokens`.
        mask: int64 ``[n, t]``; None where every token is text.
        scored: int64 ``[m]``, the places that are scored among the ``n * t`` (OPT: ``t - 1``)
            predictions; None where all are.
        labels: int64 ``[m]``, what is to be predicted there.
    """

    ids: Tensor
    mask: Tensor | None
    scored: Tensor | None
    labels: Tensor

    def to(self, device: torch.device) -> ScoredTokens:
        parts = (self.ids, self.mask, self.scored, self.labels)
        return ScoredTokens(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]


def score_places(model: Blip2ForConditionalGeneration, tokens: CaptionTokens) -> ScoredTokens:
    """The places of ``tokens``, which are on the CPU, that the loss of ``model`` is of."""
    # The begin-of-text token is constant: predicting it is not scored.
    begin = 1 if model.config.use_decoder_only_language_model else 0
    text = tokens.mask[:, begin:].bool()
    labels = tokens.ids[:, begin:]
    if text.all():
        return ScoredTokens(tokens.ids, None, None, labels.flatten())
    return ScoredTokens(tokens.ids, tokens.mask, text.flatten().nonzero()[:, 0], labels[text])


def scored_logits(
    model: Blip2ForConditionalGeneration, queries: Tensor, tokens: ScoredTokens
) -> Tensor:
    """Logits ``[m, vocabulary]`` that predict ``tokens.labels``.

    Those of :func:`caption_logits` at labelled positions. With OPT the others, which the larger the
    vocabulary the more they cost, are not computed.
    """
    language_model: Any = model.language_model
    images = model.language_projection(queries.to(model.language_projection.weight.dtype))
    if not model.config.use_decoder_only_language_model:
        labels = tokens.ids
        if tokens.mask is not None:
            labels = labels.masked_fill(tokens.mask == 0, IGNORED)
        logits: Tensor = language_model(
            inputs_embeds=images,
            decoder_input_ids=language_model.prepare_decoder_input_ids_from_labels(labels),
            use_cache=False,
        ).logits.flatten(0, 1)
        return logits if tokens.scored is None else logits.index_select(0, tokens.scored)
    inputs = torch.cat([images, model.get_input_embeddings()(tokens.ids).to(images.dtype)], dim=1)
    # Pads stand on the right, where no token before them looks: causal attention needs no mask.
    hidden = language_model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    predicting = hidden[:, images.shape[1] : -1].flatten(0, 1)
    if tokens.scored is not None:
        predicting = predicting.index_select(0, tokens.scored)
    text: Tensor = language_model.lm_head(predicting)
    return text
