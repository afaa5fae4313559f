"""Parts of a batch side by side against the whole batch at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compositional_prompts.compute.side_by_side import (
    PARTS,
    SideBySide,
    differentiate,
    parts_of,
)

CPU = torch.device("cpu")


class Shared(nn.Module):
    """Two layers that share a weight, as an embedding and a head do, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(12, 8, dtype=torch.float64)
        self.hidden = nn.Linear(8, 8, dtype=torch.float64)
        self.unused = nn.Linear(8, 8, dtype=torch.float64)

    def loss(self, ids: Tensor, labels: Tensor, rows: int) -> Tensor:
        logits = F.linear(self.hidden(self.embedding(ids)).tanh(), self.embedding.weight)
        return F.cross_entropy(logits, labels, reduction="sum") / rows


def batch(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids, labels = torch.randint(0, 12, (2, rows), generator=generator)
    return ids, labels


def part_losses(model: Shared, rows: int) -> list[Callable[[], Tensor]]:
    ids, labels = batch(rows)
    return [partial(model.loss, ids[part], labels[part], rows) for part in parts_of(rows, CPU)]


@pytest.mark.parametrize("rows", [1, 2, 7, 32])
def test_the_parts_give_the_gradient_of_the_whole_batch(rows: int) -> None:
    model = Shared()
    parameters = list(model.parameters())
    with SideBySide(2) as threads:
        found = differentiate(part_losses(model, rows), parameters, threads)
    gradients = [parameter.grad for parameter in parameters]
    whole = model.loss(*batch(rows), rows)
    expected = torch.autograd.grad(whole, parameters, allow_unused=True)
    assert found == pytest.approx(whole.item())
    assert [one is None for one in gradients] == [False, False, False, True, True]
    for one, other in zip(gradients, expected, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other)


def test_gradients_of_before_are_replaced() -> None:
    model = Shared()
    parameters = list(model.parameters())
    with SideBySide(1) as threads:
        differentiate(part_losses(model, 8), parameters, threads)
        first = [None if p.grad is None else p.grad.clone() for p in parameters]
        model.unused.weight.grad = torch.ones_like(model.unused.weight)
        differentiate(part_losses(model, 8), parameters, threads)
    for parameter, before in zip(parameters, first, strict=True):
        if before is None:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and torch.equal(parameter.grad, before)


def test_one_thread_and_two_give_the_same_bits() -> None:
    gradients = []
    for threads in (1, 2, 2, 2):
        model = Shared().float()
        with SideBySide(threads) as shared:
            differentiate(part_losses(model, 31), list(model.parameters()), shared)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))


def test_a_batch_is_cut_on_a_cpu_alone_and_no_part_is_empty() -> None:
    assert [part.tolist() for part in parts_of(5, CPU)] == [[0, 1, 2], [3, 4]]
    assert [part.tolist() for part in parts_of(1, CPU)] == [[0]]
    assert [part.tolist() for part in parts_of(3, torch.device("meta"))] == [[0, 1, 2]]
    assert len(parts_of(100, CPU)) == PARTS


def test_parts_are_in_threads_of_their_own_and_torch_computes_in_one() -> None:
    before = torch.get_num_threads()
    met = threading.Barrier(2, timeout=30)

    def part(number: int) -> tuple[int, int, int]:
        met.wait()  # both are there at once, or this is broken
        return number, threading.get_ident(), torch.get_num_threads()

    with SideBySide(2) as threads:
        (first, one, threads_of_one), (second, two, threads_of_two) = threads.results(
            [partial(part, 0), partial(part, 1)]
        )
    assert (first, second) == (0, 1) and one != two
    assert threads_of_one == threads_of_two == 1
    assert torch.get_num_threads() == before


def test_an_error_of_a_part_is_raised_and_the_threads_end() -> None:
    def failing() -> Tensor:
        raise ValueError("row 3 is no image")

    before, running = torch.get_num_threads(), threading.active_count()
    with pytest.raises(ValueError, match="row 3"), SideBySide(2) as threads:
        threads.results([lambda: torch.zeros(()), failing])
    assert torch.get_num_threads() == before
    assert threading.active_count() == running
