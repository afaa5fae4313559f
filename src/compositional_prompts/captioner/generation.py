"""Captions from query features by beam search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compositional_prompts.captioner.features import FeatureStore
from compositional_prompts.captioner.loading import Captioner
from compositional_prompts.stage import progress


@torch.inference_mode()
def generate_captions(
    captioner: Captioner, queries: Tensor, *, num_beams: int, max_new_tokens: int
) -> list[str]:
    """Caption a batch of images.

    Args:
        captioner: the model, with or without an adapter in it.
        queries: query features ``[n, queries, width]``.
        num_beams: width of the beam search; 1 is greedy.
        max_new_tokens: most tokens a caption may have.

    Returns:
        ``n`` captions without special tokens or surrounding white space.
    """
    model = captioner.model
    device = captioner.device
    projection = model.language_projection
    embeds = projection(queries.to(device, projection.weight.dtype))
    begin = captioner.begin_of_text
    if begin:
        start = model.get_input_embeddings()(torch.tensor(begin, device=device))
        embeds = torch.cat([embeds, start.to(embeds.dtype).expand(len(embeds), -1, -1)], dim=1)
    tokens = model.language_model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=device),
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        early_stopping=num_beams > 1,
        eos_token_id=captioner.end_of_caption,
        pad_token_id=captioner.padding,
    )
    captions: list[str] = captioner.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [caption.strip() for caption in captions]


def caption_images(
    captioner: Captioner,
    features: FeatureStore,
    image_ids: Sequence[str],
    *,
    batch_size: int,
    num_beams: int,
    max_new_tokens: int,
) -> list[str]:
    """Caption the given images in batches, from their cached features, in their order."""
    captions: list[str] = []
    for start in progress(range(0, len(image_ids), batch_size), "captions"):
        queries = features.read(image_ids[start : start + batch_size])
        captions += generate_captions(
            captioner, queries, num_beams=num_beams, max_new_tokens=max_new_tokens
        )
    return captions
