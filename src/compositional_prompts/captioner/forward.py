"""What is computed from the two halves of BLIP-2.

The frozen half (vision tower and Q-Former) turns an image into query features; the other half
(projection and language model) turns query features into a caption. Both are driven from here
with embeddings rather than through image placeholders in the text: the result is the same, and
checkpoints with and without an image token, or a ``num_query_tokens``, need no special case.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Blip2ForConditionalGeneration

from compositional_prompts.captioner.tokens import CaptionTokens

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
