"""BERTScore of captions with one reference each (Zhang et al., ICLR 2020); in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.files.hub import fetch_snapshot
from compositional_prompts.files.tensors.finite_numbers import require_finite_weights
from compositional_prompts.scoring.parameters import BertScore

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PARAMETER = "score.bert_score"
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_NO_LIMIT = 1_000_000
"""What transformers has for the length of a tokenizer that states none is far above it."""

BertScorer = Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]
"""Captions and as many references to the F1 of each pair, float64 ``[n]`` in -1..1."""


def load_bert_scorer(params: BertScore, batch_size: int, device: torch.device) -> BertScorer:
    """The scorer by a masked language model, of the hub or of a folder.

    Args:
        params: which model, and which of its layers.
        batch_size: pairs embedded at once.
        device: where.

    Raises:
        DamagedOutputError: weights are no whole file, or a number of them is not finite.
        FileNotFoundError: the folder is no model, or the hub is out of reach and the repository
            not in the local cache, or it has pickles only.
        ValueError: it is no encoder with that layer, or has no such tokenizer.
    """
    # Here, since it takes seconds to import, and most runs have no such model.
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = Path(params.name)
    if params.source == "hub":
        folder = fetch_snapshot(params.name, params.revision, _FILES, PARAMETER)
    for wanted in ("config.json", "*.safetensors"):
        if not any(folder.glob(wanted)):
            raise FileNotFoundError(
                f"{PARAMETER}: {params.name} is not a transformers model: {folder} has no {wanted}"
                " (pickles, such as pytorch_model.bin, are never read). It is written by "
                "save_pretrained of a model and of its tokenizer."
            )
    require_finite_weights(*sorted(folder.glob("*.safetensors")))
    config = AutoConfig.from_pretrained(folder)
    layers = getattr(config, "num_hidden_layers", 0)
    if config.is_encoder_decoder or not layers:
        raise ValueError(
            f"{PARAMETER}: {params.name} is a {config.model_type}, expected an encoder such as "
            "bert, roberta or deberta."
        )
    if params.layer > layers:
        raise ValueError(
            f"{PARAMETER}.layer is {params.layer}, and {params.name} has {layers} layers."
        )
    # A byte-level vocabulary knows a word by the space before it.
    space = {"add_prefix_space": True} if config.model_type == "roberta" else {}
    tokenizer = AutoTokenizer.from_pretrained(folder, **space)
    model = AutoModel.from_pretrained(folder, use_safetensors=True).to(device).float().eval()
    return _Scorer(model, tokenizer, params.layer, batch_size)


class _Scorer:
    def __init__(self, model: Any, tokenizer: Any, layer: int, batch_size: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._layer = layer
        self._batch_size = batch_size
        limit = tokenizer.model_max_length
        if limit > _NO_LIMIT:  # RoBERTa's positions begin at 2
            limit = model.config.max_position_embeddings - 2
        self._limit = limit

    def __call__(self, captions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """Score each distinct pair once; memory holds the vectors of one batch of pairs.

        Raises:
            ValueError: there are more captions than references, or fewer.
        """
        pairs = list(zip(captions, references, strict=True))
        # Pairs of like length go together, for less padding.
        distinct = sorted(
            dict.fromkeys(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair)
        )
        scores: dict[tuple[str, str], float] = {}
        for start in range(0, len(distinct), self._batch_size):
            batch = distinct[start : start + self._batch_size]
            scores |= zip(batch, self._score(*zip(*batch, strict=True)).tolist(), strict=True)
        return np.array([scores[pair] for pair in pairs], dtype=np.float64)

    def _score(self, captions: Sequence[str], references: Sequence[str]) -> Tensor:
        import torch

        with torch.inference_mode():
            said, said_tokens, said_words = self._embed(captions)
            wanted, wanted_tokens, wanted_words = self._embed(references)
            cosines = torch.einsum("nsd,nwd->nsw", said, wanted)
            both = said_tokens[:, :, None] & wanted_tokens[:, None, :]
            cosines = cosines.masked_fill(~both, -torch.inf)
            precision = _mean(cosines.amax(2), said_words)
            recall = _mean(cosines.amax(1), wanted_words)
            total = precision + recall
            known = said_words.any(1) & wanted_words.any(1) & (total != 0)
            scores = torch.where(known, 2 * precision * recall / total, 0.0).double().cpu()
            return scores.clamp(max=1)  # lengths of vectors are rounded

    def _embed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors ``[n, tokens, d]``; which are tokens, and which of these are not special."""
        tokens = self._tokenizer(
            [text.strip() for text in texts],
            padding=True,
            truncation=True,
            max_length=self._limit,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        present = tokens["attention_mask"].bool()
        words = present & ~tokens.pop("special_tokens_mask").bool()
        device = self._model.device
        states = self._model(**tokens.to(device), output_hidden_states=True).hidden_states
        vectors = states[self._layer]
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
        return vectors, present.to(device), words.to(device)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of each row's ``counted`` values; NaN where there is none."""
    return values.masked_fill(~counted, 0).sum(1) / counted.sum(1)
