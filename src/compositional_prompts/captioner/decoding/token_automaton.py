"""A grammar of captions as an automaton over tokens, with what is forced taken together.

The automaton has a state wherever more than one token may follow. An edge is a token that may be
chosen there together with all tokens that can only follow it, up to the next state or the end of
the caption: a run, which a language model can read in one step.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ENDED = -1
"""Where a run leads that ends the caption."""

CHECKED_CAPTIONS = 2048
"""Captions that are tokenized whole, beyond one for every alternative, to check the automaton."""

_State = frozenset[tuple[int, int]]


class GrammarError(ValueError):
    """The captions of a grammar cannot be written token by token."""


@dataclass(frozen=True)
class TokenAutomaton:
    """See the module; edges of a state are filled up with invalid ones.

    Attributes:
        start: tokens that every caption begins with, int64 ``[t]``.
        start_state: the state after them, or :data:`ENDED`, if there is one caption only.
        tokens: first token of every edge, int64 ``[states, edges]``.
        valid: which of them there are, bool ``[states, edges]``.
        runs: number of each edge's run, int64 ``[states, edges]``.
        run_tokens: tokens of every run, padded on the right, int64 ``[runs, longest]``.
        run_lengths: how many they are, int64 ``[runs]``.
        run_targets: the state after a run, or :data:`ENDED`, int64 ``[runs]``.
        end: token that ends a caption: the last of those runs that lead to the end.
        longest: tokens of the longest caption, its end included.
    """

    start: Tensor
    start_state: int
    tokens: Tensor
    valid: Tensor
    runs: Tensor
    run_tokens: Tensor
    run_lengths: Tensor
    run_targets: Tensor
    end: int
    longest: int

    def to(self, device: torch.device) -> TokenAutomaton:
        values: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return TokenAutomaton(**values)


def compile_grammar(segments: Sequence[Sequence[str]], tokenizer: Any, end: int) -> TokenAutomaton:
    """Compile a grammar for a tokenizer.

    Segments are tokenized one by one. Tokenizers join a space to the word after it, so a space
    that ends all alternatives of a segment is moved to the next one.

    Args:
        segments: the alternatives of each segment.
        tokenizer: of the language model.
        end: token that ends a caption.

    Raises:
        GrammarError: a caption of the grammar is not the tokens of its segments, or cannot be
            read back from its tokens; it is named. All captions are checked, or, of many, each
            alternative and a seeded sample.
    """
    moved = _move_spaces(segments)
    encode = _Encoder(tokenizer)
    pieces = [encode.all(alternatives) for alternatives in moved]
    _check_captions(moved, pieces, encode)
    return _automaton(pieces, end)


class _Encoder:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def all(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts


def _move_spaces(segments: Sequence[Sequence[str]]) -> list[list[str]]:
    moved = []
    leading = ""
    for number, alternatives in enumerate(segments):
        texts = [leading + text for text in alternatives]
        leading = ""
        if number + 1 < len(segments) and all(text.endswith(" ") for text in texts):
            kept = [text.rstrip(" ") for text in texts]
            spaces = {text[len(short) :] for text, short in zip(texts, kept, strict=True)}
            if len(spaces) == 1:
                texts, leading = kept, spaces.pop()
        moved.append(texts)
    return moved


def _chosen_captions(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Which alternative of each segment, for the captions that are checked."""
    if math.prod(sizes) <= CHECKED_CAPTIONS:
        yield from itertools.product(*(range(size) for size in sizes))
        return
    for segment, size in enumerate(sizes):
        for alternative in range(size):
            yield tuple(alternative if s == segment else 0 for s in range(len(sizes)))
    rng = random.Random(0)
    for _ in range(CHECKED_CAPTIONS):
        yield tuple(rng.randrange(size) for size in sizes)


def _check_captions(
    segments: Sequence[Sequence[str]], pieces: Sequence[Sequence[Sequence[int]]], encode: _Encoder
) -> None:
    chosen = list(_chosen_captions([len(alternatives) for alternatives in segments]))
    captions = [
        "".join(texts[choice] for texts, choice in zip(segments, choices, strict=True))
        for choices in chosen
    ]
    composed = [
        [token for ids, choice in zip(pieces, choices, strict=True) for token in ids[choice]]
        for choices in chosen
    ]
    whole = encode.all(captions)
    read = encode.decode(composed)
    for caption, ours, theirs, text in zip(captions, composed, whole, read, strict=True):
        if ours != theirs:
            raise GrammarError(
                f"The grammar's caption {caption!r} has the tokens {theirs}, but its segments have "
                f"{ours}: let every segment but the first begin with a space, or join it to the "
                "one before."
            )
        if text.strip() != caption.strip():
            raise GrammarError(
                f"The grammar's caption {caption!r} is read back from its tokens as {text!r}: the "
                "tokenizer lacks characters of it; reword it."
            )


class _Acceptor:
    """A deterministic acceptor of the pieces, by subset construction over a trie a segment."""

    def __init__(self, pieces: Sequence[Sequence[Sequence[int]]], end: int) -> None:
        self._end = end
        self._segments = len(pieces)
        self._children: list[list[dict[int, int]]] = []
        self._terminal: list[set[int]] = []
        for alternatives in pieces:
            children: list[dict[int, int]] = [{}]
            terminal = set()
            for ids in alternatives:
                node = 0
                for token in ids:
                    if token not in children[node]:
                        children[node][token] = len(children)
                        children.append({})
                    node = children[node][token]
                terminal.add(node)
            self._children.append(children)
            self._terminal.append(terminal)
        self._next: dict[_State, dict[int, _State | None]] = {}
        self.start = self._closed({(0, 0)})

    def _closed(self, places: set[tuple[int, int]]) -> _State:
        """With the beginnings of the segments that may follow."""
        found = set(places)
        pending = list(places)
        while pending:
            segment, node = pending.pop()
            if segment < self._segments and node in self._terminal[segment]:
                place = (segment + 1, 0)
                if place not in found:
                    found.add(place)
                    pending.append(place)
        return frozenset(found)

    def following(self, state: _State) -> dict[int, _State | None]:
        """The tokens that may follow and their states; None where the caption has ended."""
        if state not in self._next:
            reached: dict[int, set[tuple[int, int]]] = {}
            for segment, node in state:
                if segment < self._segments:
                    for token, child in self._children[segment][node].items():
                        reached.setdefault(token, set()).add((segment, child))
            steps: dict[int, _State | None] = {
                token: self._closed(places) for token, places in sorted(reached.items())
            }
            if (self._segments, 0) in state:
                steps[self._end] = None
            self._next[state] = steps
        return self._next[state]


def _automaton(pieces: Sequence[Sequence[Sequence[int]]], end: int) -> TokenAutomaton:
    acceptor = _Acceptor(pieces, end)

    def run_from(tokens: list[int], state: _State | None) -> tuple[list[int], _State | None]:
        """``tokens`` and what can only follow them, up to a state with a choice or the end."""
        while state is not None:
            following = acceptor.following(state)
            if len(following) > 1:
                break
            ((token, state),) = following.items()
            tokens = [*tokens, token]
        return tokens, state

    start, start_state = run_from([], acceptor.start)
    numbers: dict[_State, int] = {}
    edges: list[list[int]] = []
    runs: list[tuple[list[int], _State | None]] = []
    pending: list[_State] = []

    def number_of(state: _State | None) -> int:
        if state is None:
            return ENDED
        if state not in numbers:
            numbers[state] = len(numbers)
            edges.append([])
            pending.append(state)
        return numbers[state]

    first = number_of(start_state)
    while pending:
        state = pending.pop()
        for token, target in acceptor.following(state).items():
            run = run_from([token], target)
            edges[numbers[state]].append(len(runs))
            runs.append(run)
            number_of(run[1])
    targets = [number_of(state) for _, state in runs]
    width = max(map(len, edges), default=1)
    padded = torch.zeros(len(edges), width, dtype=torch.long)
    valid = torch.zeros(len(edges), width, dtype=torch.bool)
    for row, numbered in enumerate(edges):
        padded[row, : len(numbered)] = torch.tensor(numbered)
        valid[row, : len(numbered)] = True
    lengths = [len(tokens) for tokens, _ in runs]
    run_tokens = torch.full((len(runs), max(lengths, default=1)), end)
    for row, (tokens, _) in enumerate(runs):
        run_tokens[row, : len(tokens)] = torch.tensor(tokens)
    longest = len(start) + _longest(first, edges, lengths, targets)
    return TokenAutomaton(
        start=torch.tensor(start, dtype=torch.long),
        start_state=first,
        tokens=run_tokens[padded, 0] if runs else padded,
        valid=valid,
        runs=padded,
        run_tokens=run_tokens,
        run_lengths=torch.tensor(lengths, dtype=torch.long),
        run_targets=torch.tensor(targets, dtype=torch.long),
        end=end,
        longest=longest,
    )


def _longest(
    first: int, edges: Sequence[Sequence[int]], lengths: Sequence[int], targets: Sequence[int]
) -> int:
    """Most tokens on a way from state ``first`` to the end."""
    known = {ENDED: 0}
    pending = [first]
    while pending:
        state = pending[-1]
        if state in known:
            pending.pop()
            continue
        unknown = [targets[run] for run in edges[state] if targets[run] not in known]
        if unknown:
            pending += unknown
            continue
        known[state] = max(lengths[run] + known[targets[run]] for run in edges[state])
        pending.pop()
    return known[first]
