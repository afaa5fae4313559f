"""Rows of named and judged images: what they keep is all that was judged."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compositional_prompts.troika.evaluation.judged_rows import (
    PairJudgements,
    maxima_fields,
    put_maxima,
    stored_maxima,
)
from compositional_prompts.troika.evaluation.judged_worlds import JudgedWorld, JudgedWorlds
from compositional_prompts.troika.evaluation.judging import (
    Judgements,
    StreamedJudge,
    World,
    judge,
    judgements_of,
)
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.naming import best_pairs


def same(one: Judgements, other: Judgements) -> bool:
    return all(
        torch.equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(Judgements)
    )


def random_world(generator: np.random.Generator, seen: int, unseen: int) -> World:
    combinations = np.array([*itertools.product(range(5), range(6))])
    pairs = torch.from_numpy(generator.permutation(combinations)[: seen + unseen])
    return World.of(pairs, torch.arange(seen + unseen) < seen)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    seen=st.integers(0, 6),
    unseen=st.integers(0, 12),
    factor=st.sampled_from([None, 1.0, 2.0]),
)
def test_rows_give_back_every_judgement(
    seed: int, seen: int, unseen: int, factor: float | None
) -> None:
    generator = np.random.default_rng(seed)
    unseen = max(unseen, 1 - seen)
    world = random_world(generator, seen, unseen)
    truth = torch.from_numpy(generator.integers(0, len(world), 9))
    lowest = max(seen, 1)
    cuts = sorted({*generator.integers(lowest, len(world) + 1, 3).tolist(), len(world)})
    # Few values: many ties; and pairs that must not be predicted.
    scores = torch.from_numpy(generator.integers(-2, 3, (9, len(world))).astype(np.float32))
    scores[scores == -2] = -torch.inf
    judge_of_cuts = StreamedJudge(world, truth, cuts)
    for start in range(0, len(world), 4):
        judge_of_cuts.add(scores[:, start : start + 4], start)
    rows = np.zeros(9, maxima_fields("troika_open", len(cuts)))
    put_maxima(rows, "troika_open", np.arange(9), judge_of_cuts.maxima())
    judged = JudgedWorld(world, torch.arange(len(world)), cuts)
    every = np.ones(9, bool)
    factors = None if factor is None else [factor] * len(cuts)
    found = judgements_of(
        stored_maxima(rows, every, "troika_open", truth, judged), truth, world, cuts, factors
    )
    for cut, one, expected in zip(cuts, found, judge_of_cuts.finish(factors), strict=True):
        assert same(one, expected)
        if factor is None and bool((truth < cut).all()):
            part = World(world.attributes[:cut], world.objects[:cut], world.seen[:cut])
            assert same(one, judge(scores[:, :cut], truth, part))


def test_rows_of_some_images_leave_the_others_alone() -> None:
    world = random_world(np.random.default_rng(1), 2, 3)
    rows = np.zeros(4, maxima_fields("zero_shot_closed", 1))
    one = StreamedJudge(world, torch.tensor([3]))
    one.add(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), 0)
    put_maxima(rows, "zero_shot_closed", np.array([2]), one.maxima())
    assert rows["zero_shot_closed_truth"].tolist() == [0, 0, 4, 0]
    assert not rows[[0, 1, 3]].tobytes().strip(b"\0")


@pytest.mark.parametrize("pairs", [1, 7, 100])
def test_the_best_pairs_and_their_probabilities(pairs: int) -> None:
    scores = torch.randn(30, pairs) * 5
    scores[:, -1] = scores[:, 0]  # a tie: the first of both wins
    rows = best_pairs(scores, 5)
    kept = min(pairs, 5)
    assert rows["positions"].shape == rows["probabilities"].shape == (30, kept)
    for row, values in zip(rows, scores.double().numpy(), strict=True):
        order = sorted(range(pairs), key=lambda column: (-values[column], column))[:kept]
        assert row["positions"].tolist() == order
        shares = np.exp(values - values.max())
        np.testing.assert_allclose(row["probabilities"], (shares / shares.sum())[order], rtol=1e-5)


def test_an_image_is_named_alike_in_every_company() -> None:
    scores = torch.randn(40, 33) * 3
    order = torch.randperm(40)
    assert np.array_equal(best_pairs(scores, 4)[order.numpy()], best_pairs(scores[order], 4))
    for row in range(0, 40, 7):
        assert best_pairs(scores[row : row + 1], 4) == best_pairs(scores, 4)[row]
        assert (
            best_pairs(scores, 2)[row]["positions"].tolist()
            == best_pairs(scores, 4)[row]["positions"].tolist()[:2]
        )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_name_nothing(bad: float) -> None:
    scores = torch.zeros(3, 4)
    scores[1, 2] = bad
    with pytest.raises(ValueError, match="the model diverged"):
        best_pairs(scores, 2)


def computation(vocabulary: Vocabulary, worlds: JudgedWorlds, root: Path) -> PairJudgements:
    return PairJudgements(
        clip=root,
        model=root,
        vocabulary=vocabulary,
        top_k=3,
        device="cpu",
        batch_size=8,
        block_mib=1,
        worlds=worlds,
        trained=True,
    )


def test_a_computation_travels_and_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "open_clip_model.safetensors").write_text("weights")
    (tmp_path / "config.json").write_text('{"format": 1, "trained": true, "config": {}}')
    (tmp_path / "best.safetensors").write_text("weights")
    pairs = [("a", "x"), ("b", "y"), ("b", "x")]
    vocabulary = Vocabulary.of(pairs, [True, True, False], ["train", "train", "test"], tmp_path)
    worlds = JudgedWorlds.of(vocabulary, True, None)
    sent = computation(vocabulary, worlds, tmp_path)
    received = pickle.loads(pickle.dumps(sent))
    assert received.identity() == sent.identity()
    assert received.dtype == sent.dtype
    unseen = Vocabulary.of(pairs, [True, False, False], ["train", "test", "test"], tmp_path)
    other = computation(unseen, JudgedWorlds.of(unseen, True, None), tmp_path)
    assert other.identity() != sent.identity()
    (tmp_path / "last.safetensors").write_text("no part of it")
    identity = sent.identity()
    assert received.identity() == identity
    (tmp_path / "best.safetensors").write_text("others")
    assert received.identity() != identity
