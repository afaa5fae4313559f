"""Parts of a batch side by side against the whole batch at once."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from compositional_prompts.compute.side_by_side import (
    PARTS,
    SideBySide,
    in_parts,
    part_generator,
    parts_of,
)
from compositional_prompts.compute.training.few_bits_dropout import FewBitsDropout

CPU = torch.device("cpu")


class Shared(nn.Module):
    """Two layers that share a weight, as an embedding and a head do, and one that is not used."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(12, 8, dtype=torch.float64)
        self.hidden = nn.Linear(8, 8, dtype=torch.float64)
        self.unused = nn.Linear(8, 8, dtype=torch.float64)
        self.dropout = FewBitsDropout(dropout)

    def forward(
        self, ids: Tensor, labels: Tensor, nothing: None, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        hidden = self.dropout(self.hidden(self.embedding(ids) + shift).tanh())
        logits = F.linear(hidden, self.embedding.weight)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return loss, (logits.argmax(1) == labels).sum()


def batch(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids, labels = torch.randint(0, 12, (2, rows), generator=generator)
    return ids, labels


def loss_in_parts(
    model: Shared, rows: int, threads: SideBySide, shift: Tensor
) -> tuple[Tensor, Tensor]:
    ids, labels = batch(rows)
    parts = [(ids[part], labels[part], None) for part in parts_of(rows, CPU)]
    found = in_parts(model, parts, [shift], list(model.parameters()), threads)
    loss, right = (torch.stack(one).sum() for one in zip(*found, strict=True))
    return loss, right


@pytest.mark.parametrize("rows", [1, 2, 7, 32])
def test_the_parts_give_the_loss_and_the_gradient_of_the_whole_batch(rows: int) -> None:
    model = Shared()
    shift = torch.randn(8, dtype=torch.float64, requires_grad=True)
    wanted = [*model.parameters(), shift]
    with SideBySide(2) as threads:
        loss, right = loss_in_parts(model, rows, threads, shift)
        found = torch.autograd.grad((loss * 0.5), wanted, allow_unused=True)
    ids, labels = batch(rows)
    whole, whole_right = model(ids, labels, None, shift)
    expected = torch.autograd.grad(whole * 0.5, wanted, allow_unused=True)
    torch.testing.assert_close(loss, whole)
    assert int(right) == int(whole_right)
    assert not right.requires_grad
    assert [one is None for one in found] == [False, False, False, True, True, False]
    for one, other in zip(found, expected, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other)


def test_what_a_part_was_given_is_differentiated_too() -> None:
    """As between the towers and the traction of Troika."""
    generator = torch.Generator().manual_seed(3)
    rows = [
        torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
        for _ in range(2)
    ]
    shared, weight = (
        torch.randn(4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
        for _ in range(2)
    )

    wanted = [*rows, shared, weight]

    def function(part: Tensor, common: Tensor) -> tuple[Tensor]:
        return ((part @ common).tanh() @ weight,)

    with SideBySide(2) as threads:
        parts = in_parts(function, [(row,) for row in rows], [shared], [weight], threads)
        drawn = torch.cat([one for (one,) in parts]).square().sum()
        found = torch.autograd.grad(drawn, wanted)
    plain = function(torch.cat(rows), shared)[0].square().sum()
    for one, other in zip(found, torch.autograd.grad(plain, wanted), strict=True):
        torch.testing.assert_close(one, other)


def test_one_thread_and_two_give_the_same_bits_with_dropout() -> None:
    shift = torch.zeros(8)
    found = []
    for threads in (1, 2, 2, 2):
        model = Shared(dropout=0.3).float()
        torch.manual_seed(4)
        with SideBySide(threads) as shared:
            loss, _ = loss_in_parts(model, 31, shared, shift)
            loss.backward()
            after = torch.rand(1)
        found.append(
            [loss.detach(), after, *(p.grad for p in model.parameters() if p.grad is not None)]
        )
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    torch.manual_seed(5)
    with SideBySide(1) as shared:
        loss, _ = loss_in_parts(model, 31, shared, shift)
    assert not torch.equal(loss.detach(), found[0][0])  # another seed, another dropout


def test_each_part_draws_numbers_of_its_own_and_none_is_left_behind() -> None:
    def draw(part: Tensor) -> tuple[Tensor]:
        assert part_generator() is not None
        return (torch.rand(3, generator=part_generator()),)

    with SideBySide(2) as threads:
        (first,), (second,) = in_parts(
            draw, [(torch.zeros(1),), (torch.zeros(1),)], [], [], threads
        )
    assert not torch.equal(first, second)
    assert part_generator() is None


def test_the_parts_compute_under_the_autocast_of_the_caller() -> None:
    weight = torch.randn(4, 4, requires_grad=True)

    def function(part: Tensor) -> tuple[Tensor]:
        return (part @ weight,)

    parts = [(torch.randn(2, 4),), (torch.randn(2, 4),)]
    with SideBySide(2) as threads, torch.autocast("cpu", torch.bfloat16):
        found = in_parts(function, parts, [], [weight], threads)
        plain = [function(*part)[0] for part in parts]
    for (one,), other in zip(found, plain, strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other)


def test_only_a_process_alone_on_a_cpu_has_threads() -> None:
    accelerator = Accelerator(cpu=True)
    assert isinstance(SideBySide.of(accelerator), SideBySide)
    accelerator.state.num_processes = 2
    try:
        assert SideBySide.of(accelerator) is None
    finally:
        accelerator.state.num_processes = 1


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
