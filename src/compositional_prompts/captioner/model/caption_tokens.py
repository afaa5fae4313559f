"""Captions as token ids, and batches of captions of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compositional_prompts.captioner.model.blip2_model import Captioner


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


@dataclass(frozen=True)
class RepeatedCaptions:
    """Captions of which many are the same, each distinct one kept once.

    Attributes:
        distinct: the tokens of the distinct captions, in the order in which they first occur.
        which: int32 ``[n]``, which of them each row has.
    """

    distinct: CaptionTokens
    which: Tensor

    def __len__(self) -> int:
        return len(self.which)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, int64 ``[n]``."""
        return self.distinct.mask.sum(1)[self.which]

    def select(self, rows: Tensor) -> CaptionTokens:
        """The given rows, cut to the longest of them."""
        return self.distinct.select(self.which[rows])


def tokenize_repeated(
    captioner: Captioner, captions: Sequence[str], max_tokens: int
) -> RepeatedCaptions:
    """As :func:`tokenize_captions`, but each distinct caption once, in time and in memory."""
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    distinct = tokenize_captions(captioner, list(numbers), max_tokens)
    which = torch.tensor([numbers[caption] for caption in captions], dtype=torch.int32)
    return RepeatedCaptions(distinct, which)


def random_batches(captions: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Batches of captions in random order, every caption once.

    Batches of one length would hold fewer pads. But captions of one length say much the same, and
    a step on them learns less: by more than the pads cost.

    Args:
        captions: how many there are.
        batch_size: captions a batch; the last batch may be smaller.
        generator: of the order, on the CPU.

    Returns:
        Row numbers of each batch.
    """
    return list(torch.randperm(captions, generator=generator).split(batch_size))
