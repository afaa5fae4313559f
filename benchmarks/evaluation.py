"""Compositional zero-shot metrics: a sort of the margins, against a loop over the biases.

Both compute the exact seen-unseen curve of the same random scores. The loop adds one bias after
the other to all scores of unseen pairs, between every two at which a prediction changes, and
takes the best pair of every image anew, with NumPy over images and pairs.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from measuring.resources import best_time
from numpy.typing import NDArray

from compositional_prompts.troika.evaluation import World, czsl_metrics, judge

OBJECTS = 12  # as UT-Zappos50K has types of shoe
COMPARED = ("best_seen", "best_unseen", "best_hm", "auc")
Scores = NDArray[np.float64]
Pairs = NDArray[np.int64]


def by_sorting(scores: Scores, truth: Pairs, world: World) -> Mapping[str, Any]:
    """The pipeline's way."""
    return czsl_metrics(judge(torch.from_numpy(scores), torch.from_numpy(truth), world))


def by_biases(scores: Scores, truth: Pairs, seen: NDArray[np.bool_]) -> dict[str, float]:
    """Every bias that matters, one after the other."""
    margins = np.unique(scores[:, seen].max(axis=1) - scores[:, ~seen].max(axis=1))
    biases = [margins[0] - 1, *((margins[1:] + margins[:-1]) / 2), margins[-1] + 1]
    of_seen = seen[truth]
    curve = []
    for bias in biases:
        hits = (scores + bias * ~seen).argmax(axis=1) == truth
        curve.append((hits[of_seen].mean(), hits[~of_seen].mean()))
    steps = itertools.pairwise(curve)
    return {
        "best_seen": float(max(point[0] for point in curve)),
        "best_unseen": float(max(point[1] for point in curve)),
        "best_hm": float(max(2 * s * u / (s + u) if s + u else 0.0 for s, u in curve)),
        "auc": float(sum((u1 - u0) * (s0 + s1) / 2 for (s0, u0), (s1, u1) in steps)),
    }


def main() -> None:
    """Measure both ways and print a table.

    Raises:
        AssertionError: they disagree.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2914, help="default: UT-Zappos50K's test")
    parser.add_argument("--seen-pairs", type=int, default=83)
    parser.add_argument("--unseen-pairs", type=int, default=18)
    parser.add_argument("--repeats", type=int, default=3, help="of the sort; the fastest counts")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    generator = np.random.default_rng(arguments.seed)
    pairs = arguments.seen_pairs + arguments.unseen_pairs
    seen = generator.permutation(np.arange(pairs) < arguments.seen_pairs)
    positions = np.stack([np.arange(pairs) // OBJECTS, np.arange(pairs) % OBJECTS], axis=1)
    world = World.of(torch.from_numpy(positions), torch.from_numpy(seen))
    truth = generator.integers(0, pairs, arguments.images)
    scores = generator.standard_normal((arguments.images, pairs))
    scores[np.arange(arguments.images), truth] += 2  # better than chance, as a model is
    scores[:, seen] += 1  # and fonder of what it was trained on

    start = time.perf_counter()
    expected = by_biases(scores, truth, seen)
    loop = time.perf_counter() - start
    found = by_sorting(scores, truth, world)
    for name in COMPARED:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, err_msg=name)
    sort = best_time(lambda: by_sorting(scores, truth, world), arguments.repeats)

    same = ", ".join(f"{name} {found[name]:.4f}" for name in COMPARED)
    print(f"Seen-unseen curve: {arguments.images} images, {pairs} pairs; the same {same}")
    print(f"{'':32}{'seconds':>10}{'images/s':>12}{'ratio':>8}")
    for name, seconds in (("loop over the biases", loop), ("sort of the margins", sort)):
        rate = arguments.images / seconds
        print(f"{name:32}{seconds:>10.4f}{rate:>12.0f}{loop / seconds:>8.1f}")


if __name__ == "__main__":
    main()
