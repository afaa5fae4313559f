"""Captions of images: by beam search, greedily, sampled, or among those of a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compositional_prompts.captioner.decoding.beam_search import BeamSearch
from compositional_prompts.captioner.decoding.decoders import (
    Decoder,
    RowDecoder,
    TreeDecoder,
    closed_up,
)
from compositional_prompts.captioner.decoding.grammar_search import search_grammar
from compositional_prompts.captioner.decoding.replayed_decoder import ReplayedDecoder
from compositional_prompts.captioner.decoding.sampling import (
    draw_uniforms,
    sample_tokens,
)
from compositional_prompts.captioner.decoding.token_automaton import TokenAutomaton
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.forward import query_features
from compositional_prompts.captioner.parameters import Sampling
from compositional_prompts.files.tensors.finite_numbers import require_finite_values
from compositional_prompts.pipeline.section import QUANTIZED

GPU_STEPS = 4
"""Steps after which it is asked again which images are done, on a GPU."""

TOWER_BATCH = 32
"""Photos that a CPU sends through the vision tower at once: the activations of more of them fit no
cache, and fetching memory for them costs a fifth of the time.
"""

NEVER = -1
"""A token that is never chosen."""


def generate_captions(
    captioner: Captioner,
    queries: Tensor,
    *,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    grammar: TokenAutomaton | None = None,
    graphs: bool = False,
) -> list[str]:
    """Caption a batch of images.

    Args:
        captioner: the model, with or without an adapter in it.
        queries: query features ``[n, queries, width]``, or pixel_values ``[n, 3, H, W]``.
        num_beams: width of the beam search; 1 is greedy.
        max_new_tokens: most tokens a caption may have; those of a grammar end by themselves.
        length_penalty: the log-probability of a caption is divided by its number of tokens, its
            end included, to this power.
        sampling: the distribution to sample from, instead of searching for the best caption;
            with ``num_beams`` 1.
        seeds: of each image, for sampling.
        grammar: the captions there may be; for OPT only.
        graphs: replay the steps as CUDA graphs where they can be; not for a model whose forward
            passes other processes join.

    Returns:
        ``n`` captions without special tokens or surrounding white space.

    Raises:
        ValueError: a log-probability is not a number; the model has too few positions for so many
            tokens, or for a caption of the grammar, it does not support a grammar, or sampling is
            asked for without a seed an image, or together with beams or a grammar.
    """
    if not len(queries):
        return []
    tokens = generate_tokens(
        captioner,
        queries,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        length_penalty=length_penalty,
        sampling=sampling,
        seeds=seeds,
        grammar=grammar,
        graphs=graphs,
    )
    return read_tokens(captioner.tokenizer, tokens.tolist())


def read_tokens(tokenizer: Any, tokens: Sequence[Sequence[int]]) -> list[str]:
    """Captions of token ids, without special tokens or surrounding white space."""
    captions: list[str] = tokenizer.batch_decode(list(tokens), skip_special_tokens=True)
    return [caption.strip() for caption in captions]


@torch.inference_mode()
def generate_tokens(
    captioner: Captioner,
    queries: Tensor,
    *,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    grammar: TokenAutomaton | None = None,
    graphs: bool = False,
    ending: bool = True,
) -> Tensor:
    """As :func:`generate_captions`, to token ids, int64 ``[n, tokens]``, filled up with ends.

    With ``ending`` false, captions are not ended before ``max_new_tokens``: the most costly there
    can be, to measure with. (Those of a grammar end all the same.)
    """
    _check_room(captioner, queries, max_new_tokens, grammar)
    end = captioner.end_of_caption if ending else NEVER
    with captioner.autocast():
        queries = _all_queries(captioner, queries.to(captioner.device))
        steps = max_new_tokens if graphs and grammar is None else None
        decoder = make_decoder(captioner, queries, num_beams, steps)
        if sampling is not None:
            if num_beams > 1 or grammar is not None or seeds is None or len(seeds) != len(queries):
                raise ValueError(
                    "Sampling needs num_beams 1, no grammar and a seed for every image; found "
                    f"{num_beams} beams and {len(seeds or ())} seeds for {len(queries)} images."
                )
            uniforms = draw_uniforms(seeds, max_new_tokens).to(captioner.device)
            return sample_tokens(decoder, uniforms, sampling, end)
        if grammar is not None:
            if not isinstance(decoder, TreeDecoder):
                text_config: Any = captioner.model.config.text_config
                raise ValueError(
                    "infer.grammar is for BLIP-2 with a decoder-only language model (OPT), found "
                    f"{text_config.model_type}: set infer.grammar to false."
                )
            return search_grammar(
                decoder,
                grammar.to(captioner.device),
                images=len(queries),
                num_beams=num_beams,
                length_penalty=length_penalty,
            )
        search = BeamSearch(
            len(queries),
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            end=end,
            length_penalty=length_penalty,
            device=captioner.device,
        )
        return _search(decoder, search)


def _all_queries(captioner: Captioner, inputs: Tensor) -> Tensor:
    """Query features of query features or pixels, ``[n, queries, width]``."""
    if inputs.ndim == 3:
        # As they are: autocast on a CPU joins no float16.
        return inputs
    at_once = len(inputs) if captioner.device.type == "cuda" else TOWER_BATCH
    return torch.cat([query_features(captioner.model, part) for part in inputs.split(at_once)])


def make_decoder(
    captioner: Captioner, queries: Tensor, num_beams: int, steps: int | None = None
) -> Decoder:
    """The decoder that fits the captioner's language model.

    Args:
        captioner: the model, with or without an adapter in it.
        queries: query features ``[images, queries, width]``.
        num_beams: beams of an image.
        steps: most tokens of a text, if they may be replayed as a CUDA graph.
    """
    config: Any = captioner.model.config
    if not config.use_decoder_only_language_model:
        return RowDecoder(captioner, queries, num_beams)
    # Quantized layers wait for the GPU within a step.
    on_gpu = captioner.device.type == "cuda" and captioner.precision not in QUANTIZED
    if on_gpu and steps is not None:
        return ReplayedDecoder(captioner, queries, num_beams, steps)
    return TreeDecoder(captioner, queries, num_beams)


def _check_room(
    captioner: Captioner, queries: Tensor, max_new_tokens: int, grammar: TokenAutomaton | None
) -> None:
    config = captioner.model.config
    positions = getattr(config.text_config, "max_position_embeddings", None)
    if positions is None or not config.use_decoder_only_language_model:
        return
    # The last token is chosen, never read.
    tokens = max_new_tokens if grammar is None else grammar.longest
    needed = config.num_query_tokens + len(captioner.begin_of_text) + tokens - 1
    if needed > positions:
        remedy = (
            f"lower infer.max_new_tokens = {max_new_tokens} by {needed - positions}."
            if grammar is None
            else "shorten labels or words, or set infer.grammar to false."
        )
        raise ValueError(
            f"The language model has {positions} positions, and image and caption need {needed}: "
            f"{remedy}"
        )


def _search(decoder: Decoder, search: BeamSearch) -> Tensor:
    """Run a beam search to its end; token ids ``[images, most tokens]``, filled up with ends."""
    texts = torch.empty_like(search.best)
    places = torch.arange(len(texts), device=texts.device)
    log_probs = decoder.begin()
    require_finite_values("log-probabilities of the first token", log_probs.amax(-1))
    # To ask what is done, a GPU has to be waited for.
    pause = GPU_STEPS if texts.device.type == "cuda" else 1
    while True:
        chosen = search.advance(log_probs)
        if search.exhausted:
            break
        finished = int(search.done.sum()) if search.length % pause == 0 else 0
        if finished == len(places):
            break
        if finished >= decoder.leaving_share * len(places):
            require_finite_values("log-probabilities of captions", search._best_score[search.done])
            texts[places] = search.best
            rows = closed_up(search.done)
            decoder.select(rows)
            search.select(rows)
            places, chosen = places[rows], chosen.select(rows)
        log_probs = decoder.extend(chosen.parents, chosen.tokens)
    require_finite_values("log-probabilities of captions", search._best_score)
    texts[places] = search.best
    return texts
