"""The metrics against a loop over every bias, and against cases worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compositional_prompts.troika.evaluation import (
    METRICS,
    Judgements,
    World,
    czsl_metrics,
    judge,
    seen_unseen_curve,
)


def make_world(pairs: list[tuple[int, int]], seen: list[bool]) -> World:
    return World.of(torch.tensor(pairs), torch.tensor(seen))


def brute_force(scores: np.ndarray, truth: np.ndarray, world: World) -> dict[str, float | None]:
    """Add each bias to the scores, take the best pair of every image, count."""
    seen = world.seen.numpy()
    attributes, objects = world.attributes.numpy(), world.objects.numpy()
    truth_seen = np.array([seen[column] for column in truth], dtype=bool)

    def accuracies(bias: float) -> tuple[float, float]:
        hits: dict[bool, list[bool]] = {True: [], False: []}
        for row, column in zip(scores, truth, strict=True):
            best, best_score = -1, -np.inf
            for candidate, score in enumerate(row):
                biased = score if seen[candidate] else score + bias
                if biased > best_score:
                    best, best_score = candidate, biased
            hits[bool(seen[column])].append(best == column)
        return float(np.mean(hits[True])), float(np.mean(hits[False]))

    predicted = [max(range(len(row)), key=lambda column: row[column]) for row in scores]
    result: dict[str, float | None] = dict.fromkeys(METRICS)
    if len(truth):
        pairs = list(zip(predicted, truth, strict=True))
        result["attribute_accuracy"] = float(
            np.mean([attributes[p] == attributes[t] for p, t in pairs])
        )
        result["object_accuracy"] = float(np.mean([objects[p] == objects[t] for p, t in pairs]))
    if not truth_seen.any() or truth_seen.all():
        return result
    gaps = {row[seen].max() - row[~seen].max() for row in scores if seen.any() and not seen.all()}
    ordered = sorted(gaps)
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


@settings(max_examples=150, deadline=None)
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
