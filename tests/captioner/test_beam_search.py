"""The search itself, on tables of log-probabilities, against references written out in full."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compositional_prompts.captioner.decoding.beam_search import BeamSearch

END = 1


class Table:
    """Log-probabilities that depend on the whole text before: a table, filled as it is asked."""

    def __init__(self, seed: int, vocabulary: int, end_bias: float) -> None:
        self.seed = seed
        self.vocabulary = vocabulary
        self.end_bias = end_bias

    def after(self, text: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, text)) % 2**31)
        logits = 2 * torch.randn(self.vocabulary, generator=generator)
        logits[END] += self.end_bias
        return logits.log_softmax(-1)


def reference(
    table: Table, num_beams: int, limit: int, length_penalty: float
) -> tuple[float, list[int]]:
    """The algorithm as its description has it, on Python lists, one image."""
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, limit + 1):
        candidates = [
            (score + float(log_prob), (*text, token))
            for score, text in beams
            for token, log_prob in enumerate(table.after(text))
        ]
        candidates = sorted(candidates, reverse=True)[: 2 * num_beams]
        over = [text[-1] == END or length == limit for _, text in candidates]
        for (score, text), ended in list(zip(candidates, over, strict=True))[:num_beams]:
            if ended:
                finished.append((score / length**length_penalty, text))
        if len(finished) >= num_beams:
            break
        beams = [c for c, ended in zip(candidates, over, strict=True) if not ended][:num_beams]
    score, text = max(finished)
    return score, [*text, *[END] * (limit - len(text))]


def search(
    tables: list[Table], num_beams: int, limit: int, length_penalty: float, leaving: bool
) -> torch.Tensor:
    """Ours, over a batch; with ``leaving``, images go as soon as they are done."""
    state = BeamSearch(
        len(tables),
        num_beams=num_beams,
        max_new_tokens=limit,
        end=END,
        length_penalty=length_penalty,
    )
    results = torch.zeros(len(tables), limit, dtype=torch.long)
    places = list(range(len(tables)))
    texts: list[list[tuple[int, ...]]] = [[()] * num_beams for _ in tables]
    while not state.exhausted and places:
        log_probs = torch.stack(
            [
                torch.stack([tables[place].after(text) for text in beams])
                for place, beams in zip(places, texts, strict=True)
            ]
        )
        chosen = state.advance(log_probs)
        results[places] = state.best
        texts = [
            [(*beams[parent], token) for parent, token in zip(parents, tokens, strict=True)]
            for beams, parents, tokens in zip(
                texts, chosen.parents.tolist(), chosen.tokens.tolist(), strict=True
            )
        ]
        if leaving:
            rows = [row for row, done in enumerate(state.done.tolist()) if not done][::-1]
            state.select(torch.tensor(rows, dtype=torch.long))
            places, texts = [places[row] for row in rows], [texts[row] for row in rows]
    return results


@given(
    seed=st.integers(0, 10**6),
    num_beams=st.integers(1, 6),
    limit=st.integers(1, 7),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
    end_bias=st.sampled_from([-20.0, 0.0, 2.0, 4.0]),
    leaving=st.booleans(),
)
def test_as_the_reference(seed, num_beams, limit, length_penalty, end_bias, leaving) -> None:
    tables = [Table(seed + image, 13, end_bias) for image in range(3)]
    found = search(tables, num_beams, limit, length_penalty, leaving)
    for table, text in zip(tables, found.tolist(), strict=True):
        assert text == reference(table, num_beams, limit, length_penalty)[1]


def test_one_beam_is_greedy() -> None:
    table = Table(3, 20, 0.0)
    text: list[int] = []
    while len(text) < 8 and END not in text:
        text.append(int(table.after(tuple(text)).argmax()))
    assert search([table], 1, 8, 1.0, False)[0].tolist() == text + [END] * (8 - len(text))


@pytest.mark.parametrize("limit", [1, 3])
def test_texts_that_never_end_are_as_long_as_they_may_be(limit) -> None:
    found = search([Table(0, 12, -100.0)], 4, limit, 1.0, False)
    assert END not in found[0].tolist()


def test_an_image_that_is_done_does_not_change() -> None:
    """What beams of a finished image do while others go on is of no consequence."""
    state = BeamSearch(1, num_beams=2, max_new_tokens=5, end=END)
    first = torch.full((1, 1, 6), -10.0)
    first[0, 0, END], first[0, 0, 3], first[0, 0, 4] = -0.5, -1.0, -2.0
    state.advance(first)
    assert not bool(state.done)
    second = torch.full((1, 2, 6), -10.0)
    second[0, 0, END] = -0.1
    state.advance(second)
    assert bool(state.done)
    # -0.5 over one token, against -1.1 over two.
    best = state.best.clone()
    assert best.tolist() == [[END] * 5]
    state.advance(torch.zeros(1, 2, 6))
    assert torch.equal(state.best, best)
