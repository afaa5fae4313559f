"""The metrics against loops over every bias, and against cases worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compositional_prompts.troika.evaluation import czsl_metrics as evaluation
from compositional_prompts.troika.evaluation.czsl_metrics import (
    SAMPLED_METRICS,
    czsl_metrics,
    sampled_metrics,
    seen_unseen_curve,
)
from compositional_prompts.troika.evaluation.judging import Judgements, StreamedJudge, World, judge
from compositional_prompts.troika.evaluation.segment_maxima import CHUNK, WIDE_SEGMENT

METRICS = (*SAMPLED_METRICS, "attribute_accuracy", "object_accuracy")


def make_world(pairs: list[tuple[int, int]], seen: list[bool]) -> World:
    return World.of(torch.tensor(pairs), torch.tensor(seen))


def brute_force(
    scores: np.ndarray, truth: np.ndarray, world: World, cut: int | None = None
) -> dict[str, float | None]:
    """Add each bias to the scores, take the best of the first ``cut`` pairs, count."""
    scores = scores[:, :cut]
    seen = world.seen.numpy()
    attributes, objects = world.attributes.numpy(), world.objects.numpy()
    truth_seen = np.array([seen[column] for column in truth], dtype=bool)
    order = sorted(range(scores.shape[1]), key=lambda c: (attributes[c], objects[c]))
    seen_columns = [column for column in order if seen[column]]
    unseen_columns = [column for column in order if not seen[column]]

    def accuracies(bias: float) -> tuple[float, float]:
        hits: dict[bool, list[bool]] = {True: [], False: []}
        for row, column in zip(scores, truth, strict=True):
            best, best_score = -1, -np.inf
            for candidate in order:
                score = row[candidate]
                biased = score if seen[candidate] else score + bias
                if biased > best_score:
                    best, best_score = candidate, biased
            hits[bool(seen[column])].append(best == column)
        return float(np.mean(hits[True])), float(np.mean(hits[False]))

    predicted = [max(order, key=lambda column: row[column]) for row in scores]
    result: dict[str, float | None] = dict.fromkeys(METRICS)
    if len(truth):
        pairs = list(zip(predicted, truth, strict=True))
        result["attribute_accuracy"] = float(
            np.mean([attributes[p] == attributes[t] for p, t in pairs])
        )
        result["object_accuracy"] = float(np.mean([objects[p] == objects[t] for p, t in pairs]))
    if not truth_seen.any() or truth_seen.all():
        return result
    if not seen_columns or not unseen_columns:  # no bias changes anything
        biases = [0.0]
    else:
        ordered = sorted({row[seen_columns].max() - row[unseen_columns].max() for row in scores})
        between = [(low + high) / 2 for low, high in itertools.pairwise(ordered)]
        biases = [ordered[0] - 1, *between, ordered[-1] + 1]
    curve = [accuracies(bias) for bias in biases]
    result["best_seen"] = max(point[0] for point in curve)
    result["best_unseen"] = max(point[1] for point in curve)
    result["best_hm"] = max(2 * s * u / (s + u) if s + u else 0.0 for s, u in curve)
    area = 0.0
    for (s0, u0), (s1, u1) in itertools.pairwise(curve):
        area += (u1 - u0) * (s0 + s1) / 2
    result["auc"] = area
    return result


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**31), ties=st.booleans())
def test_metrics_equal_a_loop_over_all_biases(seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    attributes, objects = random.integers(1, 4, size=2)
    pairs = [(a, o) for a in range(attributes) for o in range(objects)]
    seen = random.random(len(pairs)) < 0.6
    images = int(random.integers(1, 25))
    truth = random.integers(0, len(pairs), size=images)
    scores = random.normal(size=(images, len(pairs)))
    scores[np.arange(images), truth] += random.random()
    if ties:  # margins of different images coincide, and so do scores within one image
        scores = np.round(scores * 2) / 2
    world = make_world(pairs, seen.tolist())
    expected = brute_force(scores, truth, world)
    found = czsl_metrics(judge(torch.from_numpy(scores), torch.from_numpy(truth), world))
    for name in ("best_hm", "auc", "attribute_accuracy", "object_accuracy"):
        assert found[name] == (None if expected[name] is None else pytest.approx(expected[name]))
    if expected["auc"] is not None:
        assert found["best_seen"] == pytest.approx(expected["best_seen"])
        assert found["best_unseen"] == pytest.approx(expected["best_unseen"])


def test_batches_give_the_metrics_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(4)
    world = make_world([(a, o) for a in range(3) for o in range(3)], [True] * 6 + [False] * 3)
    scores = torch.rand(40, 9, generator=generator)
    truth = torch.randint(0, 9, (40,), generator=generator)
    whole = czsl_metrics(judge(scores, truth, world))
    parts = [judge(scores[i : i + 7], truth[i : i + 7], world) for i in range(0, 40, 7)]
    assert czsl_metrics(Judgements.concatenate(parts)) == whole


def test_hand_made_curve() -> None:
    # Pairs: 0 seen, 1 seen, 2 unseen. Two images of pair 0, two of pair 2.
    world = make_world([(0, 0), (1, 0), (0, 1)], [True, True, False])
    scores = torch.tensor(
        [
            [3.0, 0.0, 2.0],  # seen, right until the bias passes 1
            [0.0, 3.0, 1.0],  # seen, never right: another seen pair is better
            [2.0, 1.0, 1.5],  # unseen, right from a bias of 0.5
            [4.0, 0.0, 1.0],  # unseen, right from a bias of 3
        ]
    )
    judgements = judge(scores, torch.tensor([0, 0, 2, 2]), world)
    seen, unseen = seen_unseen_curve(judgements)
    assert seen.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert unseen.tolist() == [0.0, 0.5, 0.5, 1.0]
    metrics = czsl_metrics(judgements)
    assert metrics == {
        "best_seen": 0.5,
        "best_unseen": 1.0,
        "best_hm": 0.5,
        "auc": 0.25,
        "attribute_accuracy": 0.75,
        "object_accuracy": 0.5,
        "images": 4,
        "seen_images": 2,
        "unseen_images": 2,
    }


def test_perfect_and_hopeless_scores() -> None:
    world = make_world([(0, 0), (1, 1)], [True, False])
    truth = torch.tensor([0, 1])
    perfect = czsl_metrics(judge(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), truth, world))
    assert [perfect[name] for name in METRICS] == [1.0] * 6
    # The image of the seen pair looks less seen than the one of the unseen pair.
    swapped = czsl_metrics(judge(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), truth, world))
    assert (swapped["best_seen"], swapped["best_unseen"]) == (1.0, 1.0)
    assert (swapped["best_hm"], swapped["auc"]) == (0.0, 0.0)
    assert (swapped["attribute_accuracy"], swapped["object_accuracy"]) == (0.0, 0.0)


@pytest.mark.parametrize("seen_images", [True, False])
def test_images_of_one_kind_only(seen_images: bool) -> None:
    world = make_world([(0, 0), (1, 0)], [seen_images, not seen_images])
    metrics = czsl_metrics(judge(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), world))
    here, there = ("best_seen", "best_unseen") if seen_images else ("best_unseen", "best_seen")
    assert metrics[here] == 1.0
    assert metrics[there] is None and metrics["best_hm"] is None and metrics["auc"] is None
    assert (metrics["attribute_accuracy"], metrics["object_accuracy"]) == (0.0, 1.0)


def test_one_pair_and_no_image() -> None:
    world = make_world([(0, 0)], [True])
    metrics = czsl_metrics(judge(torch.tensor([[0.3]]), torch.tensor([0]), world))
    assert metrics["best_seen"] == metrics["attribute_accuracy"] == 1.0
    assert metrics["best_unseen"] is None
    nothing = czsl_metrics(Judgements.concatenate([]))
    assert [nothing[name] for name in METRICS] == [None] * 6
    assert nothing["images"] == 0
    with pytest.raises(ValueError, match="seen and of unseen"):
        seen_unseen_curve(Judgements.concatenate([]))


def test_scores_that_are_no_numbers_are_refused() -> None:
    world = make_world([(0, 0), (1, 0)], [True, False])
    scores = torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])
    with pytest.raises(ValueError, match="image 1"):
        judge(scores, torch.tensor([0, 1]), world)


def naive_sampled(scores: Tensor, truth: Tensor, world: World) -> dict[str, float]:
    """The evaluator of Purushwalkam et al. and Mancini et al., retold one bias after the other.

    A column of scores a pair, the pairs in their order; NaN where it has no images to average.
    """
    names = [(int(a), int(o)) for a, o in zip(world.attributes, world.objects, strict=True)]
    column = {name: scores[:, number] for number, name in enumerate(names)}
    seen_names = {name for name, seen in zip(names, world.seen.tolist(), strict=True) if seen}
    pairs = sorted(column)
    truth_names = [names[number] for number in truth.tolist()]
    matrix = torch.stack([column[pair] for pair in pairs], dim=1)
    unseen = torch.tensor([pair not in seen_names for pair in pairs])

    def right_at(bias: float | Tensor) -> list[bool]:
        biased = matrix.clone()
        biased[:, unseen] += bias
        return [
            pairs[best] == name for best, name in zip(biased.argmax(1), truth_names, strict=True)
        ]

    def accuracies(right: list[bool]) -> tuple[float, float]:
        of: dict[bool, list[bool]] = {True: [], False: []}
        for hit, name in zip(right, truth_names, strict=True):
            of[name in seen_names].append(hit)
        return tuple(
            sum(hits) / len(hits) if hits else float("nan") for hits in (of[True], of[False])
        )  # type: ignore[return-value]

    at_most = right_at(1e3)
    gaps = []
    for image, name in enumerate(truth_names):
        if name not in seen_names and at_most[image]:
            rival = torch.stack([column[pair][image] for pair in seen_names]).max()
            gaps.append(rival - column[name][image] - 1e-4)
    gaps.sort()
    curve = [accuracies(right_at(bias)) for bias in gaps[:: max(len(gaps) // 20, 1)]]
    curve.append(accuracies(at_most))
    seen_accuracy, unseen_accuracy = np.array(curve).T
    means = [2 / (1 / s + 1 / u) if s and u else 0.0 for s, u in curve]
    return {
        "best_seen": seen_accuracy.max(),
        "best_unseen": unseen_accuracy.max(),
        "best_hm": max(means),
        "auc": np.trapezoid(seen_accuracy, unseen_accuracy),
    }


def random_case(
    seed: int, dtype: torch.dtype, images: int, kind: str
) -> tuple[Tensor, Tensor, World]:
    """Scores, true columns and a world whose columns stand in no order."""
    random = np.random.default_rng(seed)
    attributes, objects = random.integers(2, 6, size=2)
    every = [(a, o) for a in range(attributes) for o in range(objects)]
    kept = random.permutation(len(every))[: random.integers(2, len(every) + 1)]
    seen = random.random(len(kept)) < 0.6
    seen[0] = True
    truth = random.integers(0, len(kept), size=images)
    if kind == "seen images":
        truth = random.choice(np.flatnonzero(seen), size=images)
    elif kind == "one unseen image" and not seen.all():
        truth = random.choice(np.flatnonzero(seen), size=images)
        truth[-1] = np.flatnonzero(~seen)[0]
    scores = random.normal(size=(images, len(kept)))
    lift = -9.0 if kind == "all wrong" else 3 * random.random()
    scores[np.arange(images), truth] += lift
    scores[:, seen] += random.normal()
    if kind == "logits":
        scores = 25 + 4 * scores
    elif kind == "cosines":
        scores = 0.2 + scores / 100
    elif kind == "ties":
        scores = np.round(scores * 2) / 2
    elif kind == "near ties":  # below the resolution of a float32 beside a bias of 1,000
        scores = np.round(scores) + np.round(random.normal(size=scores.shape)) * 1e-5
    world = make_world([every[index] for index in kept], seen.tolist())
    return torch.from_numpy(scores).to(dtype), torch.from_numpy(truth), world


def same(found: dict[str, float | None], expected: dict[str, float]) -> None:
    for name in SAMPLED_METRICS:
        if np.isnan(expected[name]):
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(expected[name], abs=1e-9), name


KINDS = ("logits", "cosines", "ties", "near ties", "all wrong", "seen images", "one unseen image")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_protocol_equals_the_evaluator_that_adds_every_bias(
    kind: str, dtype: torch.dtype
) -> None:
    curves = 0
    for seed in range(25):
        images = int(np.random.default_rng(seed).integers(1, 150))
        scores, truth, world = random_case(seed, dtype, images, kind)
        judged = judge(scores, truth, world)
        expected = naive_sampled(scores, truth, world)
        of_seen = world.seen[truth]
        if of_seen.all() or not of_seen.any():  # theirs may be an area of 0 between no points
            expected["auc"] = expected["best_hm"] = float("nan")
        else:
            curves += 1
        same(sampled_metrics(judged), expected)
    assert curves == 0 if kind == "seen images" else curves > 10


def test_rounding_of_a_bias_decides_as_in_the_evaluator() -> None:
    # Unseen pairs 1e-5 apart: distinct in float32, but equal beside a bias of 1,000.
    world = make_world([(0, 0), (0, 1), (1, 0)], [True, False, False])
    scores = torch.tensor([[0.5, 1.0, 1.00001], [0.5, 1.0, 1.00001], [0.9, 0.1, 0.2]])
    truth = torch.tensor([1, 2, 0])
    assert sampled_metrics(judge(scores, truth, world))["best_unseen"] == 0.5
    assert judge(scores, truth, world).unseen_hit.tolist() == [False, True, False]
    same(sampled_metrics(judge(scores, truth, world)), naive_sampled(scores, truth, world))
    # The first of the two wins the tie, the second is right in float64.
    first = judge(scores[:1], truth[:1], world)
    assert sampled_metrics(first)["best_unseen"] == 1.0
    assert sampled_metrics(judge(scores[:1].double(), truth[:1], world))["best_unseen"] == 0.0


def test_sampled_protocol_of_no_image_and_of_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampled_metrics(Judgements.concatenate([])) == dict.fromkeys(SAMPLED_METRICS)
    scores, truth, world = random_case(3, torch.float32, 101, "logits")
    judged = judge(scores, truth, world)
    whole = sampled_metrics(judged)
    monkeypatch.setattr(evaluation, "IMAGE_BLOCK", 10)
    assert sampled_metrics(judged) == whole


def test_short_floats_are_judged_as_float32() -> None:
    scores, truth, world = random_case(5, torch.bfloat16, 40, "logits")
    judged = judge(scores, truth, world)
    assert judged.truth_score.dtype == torch.float32
    same(sampled_metrics(judged), naive_sampled(scores.float(), truth, world))


def equal(one: Judgements, other: Judgements) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


@settings(max_examples=35, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS),
    images=st.integers(1, 40),
    block=st.integers(1, 30),
)
def test_neither_blocks_nor_the_order_of_pairs_and_images_matter(
    seed: int, kind: str, images: int, block: int
) -> None:
    scores, truth, world = random_case(seed, torch.float32, images, kind)
    whole = judge(scores, truth, world)
    streamed = StreamedJudge(world, truth)
    for start in range(0, len(world), block):
        streamed.add(scores[:, start : start + block], start)
    assert equal(streamed.finish()[0], whole)

    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(len(world), generator=generator)
    moved = World(world.attributes[pairs], world.objects[pairs], world.seen[pairs])
    assert equal(judge(scores[:, pairs], pairs.argsort()[truth], moved), whole)

    rows = torch.randperm(images, generator=generator)
    shuffled = judge(scores[rows], truth[rows], world)
    for metrics in (czsl_metrics, sampled_metrics):
        assert metrics(shuffled) == metrics(whole)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), constant=st.integers(-1000, 1000))
def test_a_constant_added_to_all_scores_changes_nothing(seed: int, constant: int) -> None:
    scores, truth, world = random_case(seed, torch.float64, 30, "ties")  # exact in float64
    moved = judge(scores + constant, truth, world)
    assert torch.equal(moved.margin, judge(scores, truth, world).margin)
    assert czsl_metrics(moved) == czsl_metrics(judge(scores, truth, world))


@pytest.mark.parametrize(
    "columns", [1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 7, WIDE_SEGMENT + 9]
)
def test_any_number_of_columns(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    order = torch.randperm(columns, generator=generator)
    world = World(order // 3, order % 3, torch.rand(columns, generator=generator) < 0.5)
    scores = torch.randint(-9, 9, (50, columns), generator=generator).double()
    truth = torch.randint(0, columns, (50,), generator=generator)
    judged = judge(scores, truth, world)
    rank = world.keys
    for row in range(50):
        mine = rank[truth[row]]
        for name, kind in (("seen", world.seen), ("unseen", ~world.seen)):
            for side, where in (("before", rank < mine), ("after", rank > mine)):
                chosen = scores[row, kind & where]
                best = chosen.max() if len(chosen) else torch.tensor(-torch.inf)
                assert getattr(judged, f"{name}_{side}")[row] == best
        best_key = rank[scores[row] == scores[row].max()].min()
        assert judged.attribute_hit[row] == (best_key // 3 == mine // 3)
        assert judged.object_hit[row] == (best_key % 3 == mine % 3)


@settings(max_examples=35, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["ties", "logits"]),
    block=st.integers(1, 12),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6),
)
def test_a_cut_is_the_world_of_its_first_pairs(
    seed: int, kind: str, block: int, shares: list[float]
) -> None:
    scores, truth, world = random_case(seed, torch.float64, 20, kind)
    cuts = sorted(1 + int(share * (len(world) - 1)) for share in shares)
    judge_of_cuts = StreamedJudge(world, truth, cuts)
    for start in range(0, len(world), block):
        judge_of_cuts.add(scores[:, start : start + block], start)
    judged = judge_of_cuts.finish()
    assert len(judged) == len(cuts)
    for cut, of_cut in zip(cuts, judged, strict=True):
        expected = brute_force(scores.numpy(), truth.numpy(), world, cut)
        found = czsl_metrics(of_cut)
        for name in ("best_hm", "auc", "attribute_accuracy", "object_accuracy"):
            assert found[name] == (
                None if expected[name] is None else pytest.approx(expected[name])
            )


@settings(max_examples=35, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["ties", "logits", "near ties", "cosines"]),
    block=st.integers(1, 12),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    factor=st.sampled_from([1.0, 2.0]),
)
def test_multiplied_scores_are_judged_without_scoring_again(
    seed: int, kind: str, block: int, shares: list[float], factor: float
) -> None:
    scores, truth, world = random_case(seed, torch.float32, 30, kind)
    order = (~world.seen).int().argsort(stable=True)
    world = World(world.attributes[order], world.objects[order], world.seen[order])
    seen = int(world.seen.sum())
    cuts = sorted(seen + round(share * (len(world) - seen)) for share in shares)
    streamed = StreamedJudge(world, truth, cuts)
    for start in range(0, cuts[-1], block):  # what lies beyond the last cut needs no scores
        streamed.add(scores[:, start : min(start + block, cuts[-1])], start)
    for cut, judged in zip(cuts, streamed.finish([factor] * len(cuts)), strict=True):
        factors = torch.zeros(len(world))
        factors[:cut] = 1.0
        factors[:seen] = factor
        multiplied = scores * factors
        assert equal(judged, judge(multiplied, truth, world))
        expected = naive_sampled(multiplied, truth, world)
        if not world.seen[truth].all() and world.seen[truth].any():
            same(sampled_metrics(judged), expected)


def test_minus_infinity_is_never_predicted() -> None:
    world = make_world([(0, 0), (0, 1)], [True, False])
    scores = torch.tensor([[-torch.inf, -torch.inf], [1.0, -torch.inf]])
    judged = judge(scores, torch.tensor([0, 1]), world)
    assert not judged.seen_hit.any() and not judged.unseen_hit.any()
    metrics = czsl_metrics(judged)
    assert (metrics["best_seen"], metrics["best_unseen"], metrics["auc"]) == (0.0, 0.0, 0.0)
    assert sampled_metrics(judged) == dict.fromkeys(SAMPLED_METRICS, 0.0)


def test_no_image_has_judgements_of_every_cut() -> None:
    world = make_world([(0, 0), (0, 1), (1, 0)], [True, False, False])
    judge_of_none = StreamedJudge(world, torch.zeros(0, dtype=torch.int64), [1, 3])
    judge_of_none.add(torch.zeros(0, 3), 0)
    assert [len(judged) for judged in judge_of_none.finish()] == [0, 0]


def test_bad_worlds_cuts_and_blocks_are_refused() -> None:
    world = make_world([(0, 0), (0, 1), (1, 0)], [True, False, False])
    truth = torch.tensor([0, 2])
    scores = torch.rand(2, 3)
    empty = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="no pairs"):
        StreamedJudge(World(empty, empty, empty.bool()), empty)
    with pytest.raises(ValueError, match="listed twice"):
        judge(scores, truth, make_world([(0, 0), (1, 0), (0, 0)], [True, False, False]))
    with pytest.raises(ValueError, match="found 0 to 3"):
        judge(scores, torch.tensor([0, 3]), world)
    for cuts, message in (
        ([], r"found \[\]"),
        ([2, 1], "ascending"),
        ([0, 3], "0 to 3"),
        ([4], "4"),
    ):
        with pytest.raises(ValueError, match=message):
            StreamedJudge(world, truth, cuts)
    streamed = StreamedJudge(world, truth, [1, 3])
    for block, start in ((scores[:, 1:], 1), (torch.rand(3, 1), 0), (torch.rand(2, 4), 0)):
        with pytest.raises(ValueError, match="from column 0 to at most 3"):
            streamed.add(block, start)
    with pytest.raises(ValueError, match="int64"):
        streamed.add(torch.zeros(2, 1, dtype=torch.int64), 0)
    streamed.add(scores[:, :2], 0)
    with pytest.raises(ValueError, match="columns 2 to 3"):
        streamed.finish()
    with pytest.raises(ValueError, match=r"float32 as in the blocks before, found torch\.float64"):
        streamed.add(scores[:, 2:].double(), 2)
    streamed.add(scores[:, 2:], 2)
    for factors in ([1.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match="each of the 2 cuts"):
            streamed.finish(factors)
    seen_last = StreamedJudge(make_world([(0, 0), (0, 1)], [False, True]), truth[:1], [1])
    seen_last.add(scores[:1, :1], 0)
    with pytest.raises(ValueError, match="column 1 lies beyond the cut 1"):
        seen_last.finish([1.0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_scores_in_a_later_block_name_the_image(bad: float) -> None:
    world = make_world([(0, column) for column in range(200)], [True] * 80 + [False] * 120)
    scores = torch.rand(5, 200)
    scores[3, 150] = bad
    streamed = StreamedJudge(world, torch.zeros(5, dtype=torch.int64))
    streamed.add(scores[:, :100], 0)
    with pytest.raises(ValueError, match=r"image 3 .*columns 100 to 200"):
        streamed.add(scores[:, 100:], 100)


def test_columns_beyond_the_last_cut_are_not_looked_at() -> None:
    scores, truth, world = random_case(3, torch.float64, 25, "logits")
    assert len(world) > 3
    short = StreamedJudge(world, truth, [3])
    short.add(scores[:, :3], 0)
    long = StreamedJudge(world, truth, [3])
    beyond = torch.full((25, len(world) - 3), torch.nan, dtype=torch.float64)
    long.add(torch.cat([scores[:, :3], beyond[:, :1]], dim=1), 0)
    long.add(beyond[:, 1:], 4)
    assert equal(short.finish()[0], long.finish()[0])
