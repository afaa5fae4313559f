"""Beam search over the captions of a grammar alone.

It looks for the caption of the grammar with the highest log-probability under the model, divided
by its number of tokens to the power of the length penalty, as free beam search does. A step is a
choice: tokens that a choice forces are read together with it, so there are as many forward passes
as choices in a row, not as tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compositional_prompts.captioner.decoding.decoders import TreeDecoder, closed_up
from compositional_prompts.captioner.decoding.token_automaton import ENDED, TokenAutomaton
from compositional_prompts.files.tensors.finite_numbers import require_finite_values


def search_grammar(
    decoder: TreeDecoder,
    automaton: TokenAutomaton,
    *,
    images: int,
    num_beams: int,
    length_penalty: float,
) -> Tensor:
    """The best captions that the search finds; the best there are with as many beams as captions.

    Beams that cannot become better than an image's best caption, however well they go on, are
    given up, and the search ends when none is left.

    Args:
        decoder: of the images, with ``num_beams`` beams; nothing read yet.
        automaton: the grammar, on the decoder's device.
        images: how many there are.
        num_beams: captions that are followed at once.
        length_penalty: power of the number of tokens.

    Returns:
        Token ids, int64 ``[images, automaton.longest]``, filled up with ends.

    Raises:
        ValueError: a log-probability is not a number.
    """
    end, longest = automaton.end, automaton.longest
    start = automaton.start
    if automaton.start_state == ENDED:
        return start.expand(images, -1)
    log_probs = decoder.begin(start)
    require_finite_values("log-probabilities of the first token", log_probs.amax(-1))
    forced = log_probs[:, :-1].gather(2, start.expand(images, -1)[:, :, None])[:, :, 0].sum(1)
    last = log_probs[:, -1:].expand(-1, num_beams, -1)
    device = log_probs.device
    scores = torch.full((images, num_beams), -torch.inf, device=device)
    scores[:, 0] = forced
    states = torch.full((images, num_beams), automaton.start_state, device=device)
    lengths = torch.full((images, num_beams), len(start), device=device)
    # The last column takes the padding of runs.
    texts = torch.full((images, num_beams, longest + 1), end, device=device)
    texts[:, :, : len(start)] = start
    result = torch.full((images, longest), end, device=device)
    best_score = torch.full((images,), -torch.inf, device=device)
    places = torch.arange(images, device=device)
    padding = torch.arange(automaton.run_tokens.shape[1], device=device)
    while True:
        # Choose among all edges of all beams.
        options = last.gather(2, automaton.tokens[states]) + scores[:, :, None]
        options = options.masked_fill(~automaton.valid[states], -torch.inf)
        edges = options.shape[2]
        scores, index = options.flatten(1).topk(num_beams)
        parents = index // edges
        runs = automaton.runs[states.gather(1, parents), index % edges]
        alive = scores > -torch.inf
        targets = automaton.run_targets[runs]
        taken = automaton.run_lengths[runs]
        ends = alive & (targets == ENDED)

        # Write them down.
        before = lengths.gather(1, parents)
        columns = (before[:, :, None] + padding).where(padding < taken[:, :, None], longest)
        texts = texts.take_along_dim(parents[:, :, None], dim=1)
        texts = texts.scatter(2, columns.clamp(max=longest), automaton.run_tokens[runs])
        lengths = before + taken
        states = targets.clamp(min=0)

        # Read them: all but the end itself, which is scored where it follows.
        read = torch.where(alive, taken - ends.long(), 0)
        if bool(read.any()):
            sums, last = decoder.extend_runs(parents, automaton.run_tokens[runs], read)
            follows = torch.where(ends, last[:, :, end], 0.0)
            scores = scores + torch.where(read > 0, sums + follows, 0.0)

        # Keep the best that ended; go on with what may become better.
        normalised = (scores / lengths**length_penalty).masked_fill(~ends, -torch.inf)
        score, which = normalised.max(1)
        better = score > best_score
        best_score = torch.where(better, score, best_score)
        text = texts[torch.arange(len(texts), device=device), which, :longest]
        result[places] = torch.where(better[:, None], text, result[places])
        reach = longest if length_penalty >= 0 else lengths
        hopeful = alive & ~ends & (scores / reach**length_penalty > best_score[:, None])
        scores = scores.masked_fill(~hopeful, -torch.inf)
        done = ~hopeful.any(1)
        finished = int(done.sum())
        if finished == len(done):
            require_finite_values("log-probabilities of captions", best_score)
            return result
        if finished:
            require_finite_values("log-probabilities of captions", best_score[done])
            rows = closed_up(done)
            decoder.select(rows)
            scores, states, lengths, texts = (v[rows] for v in (scores, states, lengths, texts))
            last, best_score, places = last[rows], best_score[rows], places[rows]
