"""BLIP-2 from a folder in transformers' layout, and what is computed from its two halves.

The frozen half (vision tower and Q-Former) turns an image into query features; the other half
(projection and language model) turns query features into a caption. Both are driven from here
with embeddings rather than through image placeholders in the text: the result is the same, and
checkpoints with and without an image token, or a ``num_query_tokens``, need no special case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import Blip2ForConditionalGeneration, Blip2Processor

IGNORED = -100
"""Label of a position that is not text: images and pads (the index cross_entropy ignores)."""


@dataclass(frozen=True)
class Captioner:
    """A BLIP-2 with what its inputs and outputs need.

    Attributes:
        model: in evaluation mode, no parameter requires a gradient.
        processor: the checkpoint's image processor and tokenizer.
    """

    model: Blip2ForConditionalGeneration
    processor: Blip2Processor

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixel_values, float32 ``[3, H, W]``, with the size, mean, standard
        deviation and resampling of the checkpoint.
        """
        inputs = self.processor.image_processor(images=image, return_tensors="pt")
        pixel_values: Tensor = inputs["pixel_values"][0]
        return pixel_values

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def end_of_caption(self) -> int:
        """Token id that ends a caption: the one the checkpoint's generation stops at."""
        configs: tuple[Any, ...] = (self.model.generation_config, self.model.config.text_config)
        for config in configs:
            token = config.eos_token_id
            if token is not None:
                return int(token[0] if isinstance(token, list | tuple) else token)
        return int(self.tokenizer.eos_token_id)

    @property
    def begin_of_text(self) -> list[int]:
        """Token ids that stand between the image and a caption: one for OPT, none for T5."""
        config: Any = self.model.config
        return [config.text_config.bos_token_id] if config.use_decoder_only_language_model else []

    @property
    def padding(self) -> int:
        """Token id that fills up shorter captions; masked wherever it stands."""
        pad = self.tokenizer.pad_token_id
        return self.end_of_caption if pad is None else int(pad)


def load_captioner(directory: Path, device: torch.device) -> Captioner:
    """Load the BLIP-2 in ``directory``, frozen and in evaluation mode.

    Raises:
        FileNotFoundError: there is no configuration in ``directory``.
    """
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(
            f"{directory / 'config.json'} is missing: run `dvc repro weights` to make it."
        )
    model: Any = Blip2ForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    model.to(device).eval().requires_grad_(False)
    processor = Blip2Processor.from_pretrained(directory, local_files_only=True)
    return Captioner(model=model, processor=processor)


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


@dataclass(frozen=True)
class CaptionTokens:
    """Captions as token ids, padded on the right.

    Attributes:
        ids: int64 ``[n, tokens]``; begin-of-text, caption, end-of-caption.
        mask: int64 ``[n, tokens]``, 1 where there is text.
    """

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Tensor) -> CaptionTokens:
        """The given rows, cut to the longest of them."""
        mask = self.mask[rows]
        longest = int(mask.sum(1).max()) if len(rows) else 0
        return CaptionTokens(self.ids[rows, :longest], mask[:, :longest])

    def to(self, device: torch.device) -> CaptionTokens:
        return CaptionTokens(self.ids.to(device), self.mask.to(device))


def tokenize_captions(
    captioner: Captioner, captions: Sequence[str], max_tokens: int
) -> CaptionTokens:
    """Tokenize captions once, each ended by the end-of-caption token.

    Raises:
        ValueError: a caption has more than ``max_tokens`` tokens; it is named with its length.
    """
    encoded: list[list[int]] = captioner.tokenizer(list(captions), add_special_tokens=False)[
        "input_ids"
    ]
    rows = [[*captioner.begin_of_text, *ids, captioner.end_of_caption] for ids in encoded]
    longest = max((len(ids) for ids in rows), default=0)
    if longest > max_tokens:
        caption = captions[[len(ids) for ids in rows].index(longest)]
        raise ValueError(
            f"The caption {caption!r} has {longest} tokens, more than finetune.max_tokens = "
            f"{max_tokens}: raise it, or shorten the vocabulary."
        )
    ids = torch.full((len(rows), longest), captioner.padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return CaptionTokens(ids, mask)


BUCKET_BATCHES = 16
"""Batches that are sorted by length together: little padding, and still a random order."""


def bucketed_batches(lengths: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Random batches of captions of similar length, every caption once.

    Args:
        lengths: tokens of each caption, int64 ``[n]``.
        batch_size: captions a batch; the last batch may be smaller.
        generator: of the order, on the CPU.

    Returns:
        Row numbers of each batch.
    """
    order = torch.randperm(len(lengths), generator=generator)
    batches = [
        batch
        for bucket in order.split(BUCKET_BATCHES * batch_size)
        for batch in bucket[lengths[bucket].argsort(stable=True)].split(batch_size)
    ]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


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
