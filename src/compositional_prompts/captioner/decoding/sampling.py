"""Sampling captions, repeatably: what is drawn for an image depends on its own seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from compositional_prompts.captioner.decoding.decoders import Decoder, closed_up
from compositional_prompts.captioner.parameters import Sampling
from compositional_prompts.files.tensors.finite_numbers import require_finite_values


def image_seed(seed: int, image_id: str) -> int:
    """The seed of one image, from that of the run; 63 bits."""
    digest = hashlib.sha256(f"{seed} {image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 ``[images, steps]``, each row by its own generator."""
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows) if rows else torch.empty(0, steps)


def choose_tokens(log_probs: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """Tokens by inversion of the distribution function, the most probable token first.

    Args:
        log_probs: float32 ``[n, vocabulary]``.
        uniforms: in [0, 1), float32 ``[n]``.
        sampling: log-probabilities are divided by ``temperature``; then only the ``top_k`` most
            probable tokens stay (0: all), and of these the fewest that together have at least
            ``top_p`` of the probability (nucleus sampling: Holtzman et al., 2020).

    Returns:
        int64 ``[n]``.
    """
    ordered, tokens = (log_probs / sampling.temperature).sort(dim=-1, descending=True)
    if sampling.top_k:
        ordered, tokens = ordered[:, : sampling.top_k], tokens[:, : sampling.top_k]
    probabilities = ordered.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    # A token stays if those before it have less than top_p.
    kept = (cumulative - probabilities < sampling.top_p).sum(-1, keepdim=True).clamp(min=1)
    total = cumulative.gather(1, kept - 1)
    place = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
    return tokens.gather(1, place.minimum(kept - 1))[:, 0]


def sample_tokens(decoder: Decoder, uniforms: Tensor, sampling: Sampling, end: int) -> Tensor:
    """Sample a caption for each image.

    Args:
        decoder: of the images, with one beam; nothing read yet.
        uniforms: a number for every step, float32 ``[images, most tokens]``, on its device.
        sampling: the distribution.
        end: token that ends a caption.

    Returns:
        Token ids, int64 ``[images, most tokens]``, filled up with ends.

    Raises:
        ValueError: a log-probability is not a number.
    """
    images, steps = uniforms.shape
    texts = torch.full((images, steps), end, device=uniforms.device)
    places = torch.arange(images, device=uniforms.device)
    done = torch.zeros(images, dtype=torch.bool, device=uniforms.device)
    log_probs = decoder.begin()
    for step in range(steps):
        require_finite_values("log-probabilities of a token", log_probs.amax(-1))
        tokens = choose_tokens(log_probs[:, 0], uniforms[places, step], sampling)
        tokens = tokens.masked_fill(done, end)
        texts[places, step] = tokens
        done = done | (tokens == end)
        finished = int(done.sum())
        if finished == len(done) or step + 1 == steps:
            break
        if finished >= decoder.leaving_share * len(done):
            rows = closed_up(done)
            decoder.select(rows)
            places, tokens, done = places[rows], tokens[rows], done[rows]
        log_probs = decoder.extend(torch.zeros_like(tokens)[:, None], tokens[:, None])
    return texts
