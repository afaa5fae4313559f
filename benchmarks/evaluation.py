"""Evaluation in both worlds: maxima of blocks of pairs, against an evaluator of pair columns.

The other side goes the way of the evaluator of Purushwalkam et al. and Mancini et al.: a column of
scores a pair in a dictionary, stacked anew; the best pair of every image with and without a bias of
1,000, among all pairs and among the candidates; and for every bias a copy of images x pairs scores,
a mask of their size, the bias added under it, and the best pair of every image. Both get the same
scores in memory, as blocks of pairs, and must find the same numbers.

Three tasks: the closed world of UT-Zappos50K, the open world of C-GQA cut to 30,000 pairs, and
sweeps of feasibility thresholds over validation images. Seconds are of one core's time, so that
other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from measuring.resources import peak_memory
from torch import Tensor

from compositional_prompts.troika.evaluation.czsl_metrics import czsl_metrics, sampled_metrics
from compositional_prompts.troika.evaluation.feasibility import OpenWorld
from compositional_prompts.troika.evaluation.judging import Judgements, StreamedJudge, World, judge
from compositional_prompts.troika.evaluation.measured_worlds import choose_threshold
from compositional_prompts.troika.parameters import Feasibility

BLOCK = 1024  # pairs scored at once, as a model does


@dataclass(frozen=True)
class Case:
    """Scores of every pair of a world, in blocks of pairs, and the true columns."""

    world: World
    blocks: tuple[Tensor, ...]
    truth: Tensor

    def __str__(self) -> str:
        return f"{len(self.truth):,} images x {len(self.world):,} pairs"


def scores_for(world: World, images: int, generator: torch.Generator) -> Case:
    """Logits as a model gives them: better than chance, and fonder of what it was trained on.

    Half of the images are of seen pairs.
    """
    pairs = len(world)
    kinds = (world.seen.nonzero().squeeze(1), (~world.seen).nonzero().squeeze(1))
    halves = (images // 2, images - images // 2)
    truth = torch.cat(
        [
            columns[torch.randint(0, len(columns), (half,), generator=generator)]
            for columns, half in zip(kinds, halves, strict=True)
        ]
    )
    scores = 20 + 3 * torch.randn(images, pairs, generator=generator)
    scores[torch.arange(images), truth] += 3 * math.sqrt(2 * math.log(pairs))
    scores[:, world.seen] += 2
    return Case(world, tuple(block.contiguous() for block in scores.split(BLOCK, dim=1)), truth)


def closed_world(images: int, seen: int, unseen: int, objects: int, seed: int) -> Case:
    """A closed world, its columns ordered once, as those of the open world: seen pairs first."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(seen + unseen, generator=generator)
    number = torch.cat([pairs[:seen].sort().values, pairs[seen:].sort().values])
    kinds = torch.arange(seen + unseen) < seen
    return scores_for(World(number // objects, number % objects, kinds), images, generator)


def open_world(images: int, pairs: int, thresholds: int, seed: int) -> tuple[OpenWorld, Case]:
    """An open world of about ``pairs`` pairs, one in fifty seen, ordered by feasibility."""
    generator = torch.Generator().manual_seed(seed)
    attributes = max(2, round(math.sqrt(pairs * 413 / 674)))  # as C-GQA has
    objects = max(2, pairs // attributes)
    feasibility = torch.rand(attributes, objects, generator=generator, dtype=torch.float64) * 2 - 1
    seen = torch.rand(attributes, objects, generator=generator) < 0.02
    params = Feasibility(vectors="clip", glove=None, thresholds=thresholds, masking="exclude")
    opened = OpenWorld.ordered(feasibility, seen, params)
    return opened, scores_for(opened.world, images, generator)


def streamed(case: Case, cuts: Sequence[int] | None = None) -> list[Judgements]:
    """The pipeline's way."""
    judge = StreamedJudge(case.world, case.truth, cuts)
    for number, block in enumerate(case.blocks):
        judge.add(block, number * BLOCK)
    return judge.finish()


class ColumnEvaluator:
    """The other way: the steps of their evaluator, one after the other."""

    def __init__(self, case: Case, candidates: int | None = None) -> None:
        """Take the first ``candidates`` columns of the case; all by default."""
        world = case.world
        names = list(zip(world.attributes.tolist(), world.objects.tolist(), strict=True))
        seen = world.seen.tolist()
        scores = torch.cat(case.blocks, dim=1)
        columns = {name: scores[:, number] for number, name in enumerate(names)}
        # Of several batches there would be several parts to a column.
        self.column = {name: torch.cat([column]).float() for name, column in columns.items()}
        self.pairs = sorted(names)
        self.seen_pairs = [name for name, kind in zip(names, seen, strict=True) if kind]
        allowed, of_training = set(names[:candidates]), set(self.seen_pairs)
        self.indices = torch.tensor(self.pairs)
        self.seen_mask = torch.tensor([pair in of_training for pair in self.pairs])
        self.closed_mask = torch.tensor([pair in allowed for pair in self.pairs])
        place = {pair: number for number, pair in enumerate(self.pairs)}
        truth = [names[column] for column in case.truth.tolist()]
        self.truth = torch.tensor(truth)
        self.truth_place = torch.tensor([place[pair] for pair in truth])

    def stacked(self) -> Tensor:
        """All columns side by side, ``[images, pairs]``."""
        return torch.stack([self.column[pair] for pair in self.pairs], dim=1)

    def best(self, scores: Tensor) -> Tensor:
        """Attribute and object of the best pair, ``[images, 2]``."""
        return self.indices[scores.topk(1, dim=1).indices.squeeze(1)]

    def biased(self, scores: Tensor, bias: float | Tensor) -> Tensor:
        """A copy with the bias on unseen pairs."""
        scores = scores.clone()
        scores[~self.seen_mask.repeat(len(scores), 1)] += bias
        return scores

    def masked(self, scores: Tensor) -> Tensor:
        """A copy in which only candidates can be the best."""
        scores = scores.clone()
        scores[~self.closed_mask.repeat(len(scores), 1)] = -1e10
        return scores

    def predictions(self, scores: Tensor, bias: float) -> dict[str, Tensor]:
        """With and without the bias, among all pairs and among the candidates."""
        biased = self.biased(scores, bias)
        return {
            "open": self.best(biased),
            "unbiased_open": self.best(scores),
            "closed": self.best(self.masked(biased)),
            "unbiased_closed": self.best(self.masked(scores)),
        }

    def metrics(self) -> dict[str, float]:
        """Their numbers."""
        scores = self.stacked()
        predicted = self.predictions(scores, 1e3)
        attribute, object_ = (predicted["unbiased_closed"] == self.truth).unbind(dim=1)
        at_highest = (predicted["closed"] == self.truth).all(dim=1)
        seen_images, unseen_images = [], []
        for image, pair in enumerate(zip(*self.truth.numpy().T, strict=True)):
            (seen_images if pair in self.seen_pairs else unseen_images).append(image)
        best_seen = scores[unseen_images][:, self.seen_mask].topk(1, dim=1).values.squeeze(1)
        true_scores = scores[torch.arange(len(scores)), self.truth_place][unseen_images]
        gaps = (best_seen - true_scores)[at_highest[unseen_images]] - 1e-4
        biases = gaps.sort().values
        scores = self.stacked()
        curve = []
        for bias in [*biases[:: max(len(biases) // 20, 1)], None]:
            hits = at_highest
            if bias is not None:
                hits = (self.best(self.masked(self.biased(scores, bias))) == self.truth).all(dim=1)
            accuracies = [hits[images].double().mean() for images in (seen_images, unseen_images)]
            curve.append((float(accuracies[0]), float(accuracies[1])))
        seen, unseen = np.array(curve).T
        return {
            "best_seen": float(seen.max()),
            "best_unseen": float(unseen.max()),
            "best_hm": max(2 * s * u / (s + u) if s + u else 0.0 for s, u in curve),
            "auc": float(np.trapezoid(seen, unseen)),
            "attribute_accuracy": float(attribute.double().mean()),
            "object_accuracy": float(object_.double().mean()),
        }


def check(judged: Judgements, expected: dict[str, float]) -> None:
    """Compare the numbers of both ways.

    Raises:
        AssertionError: they disagree by more than 1e-6.
    """
    found = {**czsl_metrics(judged), **sampled_metrics(judged)}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def core_seconds(run: Callable[[], object], repeats: int) -> float:
    """Seconds of this process' core in the fastest of ``repeats`` runs."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def row(name: str, columns: float, stream: float, note: str = "") -> None:
    """One line of the table."""
    print(f"{name:44}{columns:>11.3f}{stream:>11.4f}{columns / stream:>9.0f}  {note}", flush=True)


def compare(name: str, case: Case, repeats: int, column_repeats: int) -> None:
    """One world: time of both ways, the same numbers, and the memory of ours."""

    def judged_once() -> Judgements:
        """As the pipeline judges a closed world, whose scores a model hands over at once."""
        if len(case.blocks) == 1:
            return judge(case.blocks[0], case.truth, case.world)
        return streamed(case)[0]

    def ours() -> tuple[dict[str, float | None], float, float]:
        judged = judged_once()
        hits = (judged.attribute_hit, judged.object_hit)
        return sampled_metrics(judged), *(float(hit.double().mean()) for hit in hits)

    judged = judged_once()
    check(judged, ColumnEvaluator(case).metrics())
    with peak_memory(torch.device("cpu")) as mebibytes:
        ours()
    columns = core_seconds(lambda: ColumnEvaluator(case).metrics(), column_repeats)
    exact = core_seconds(lambda: czsl_metrics(judged), repeats)
    note = f"{mebibytes[0]:.0f} MiB; the exact curve takes {exact:.4f} s more"
    row(f"{name}: {case}", columns, core_seconds(ours, repeats), note)


def sweep(opened: OpenWorld, case: Case, measured: Sequence[int], repeats: int) -> None:
    """Every threshold: ours in one pass, the other way at the thresholds ``measured``."""

    def ours() -> list[Judgements]:
        swept = streamed(case, opened.cuts)
        choose_threshold(swept, "sampled")
        return swept

    swept = ours()
    columns = 0.0
    for number in measured:
        start = time.process_time()
        expected = ColumnEvaluator(case, opened.cuts[number]).metrics()
        columns += time.process_time() - start
        check(swept[number], expected)
    with peak_memory(torch.device("cpu")) as mebibytes:
        ours()
    thresholds = len(opened.cuts)
    note = f"{mebibytes[0]:.0f} MiB"
    if len(measured) < thresholds:
        columns *= thresholds / len(measured)
        note += f"; columns extrapolated from {len(measured)} of {thresholds} thresholds"
    row(f"{thresholds} thresholds: {case}", columns, core_seconds(ours, repeats), note)


def main() -> None:
    """Measure both ways at the sizes asked for and print a table.

    Raises:
        AssertionError: they disagree.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2914, help="default: UT-Zappos50K's test")
    parser.add_argument("--seen-pairs", type=int, default=83)
    parser.add_argument("--unseen-pairs", type=int, default=33)
    parser.add_argument("--open-images", type=int, default=1000)
    parser.add_argument("--open-pairs", type=int, default=30_000)
    parser.add_argument("--thresholds", type=int, default=50)
    parser.add_argument("--sweep-images", type=int, default=500, help="sweep measured in full")
    parser.add_argument("--sweep-pairs", type=int, default=3000, help="sweep measured in full")
    parser.add_argument("--extrapolate", type=int, default=1, help="thresholds of the large sweep")
    parser.add_argument(
        "--repeats", type=int, default=5, help="of the pipeline's way; fastest counts"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    print(f"{'':44}{'columns, s':>11}{'stream, s':>11}{'ratio':>9}  stream's memory")
    closed = closed_world(
        arguments.images, arguments.seen_pairs, arguments.unseen_pairs, 12, arguments.seed
    )
    compare("closed", closed, 20 * arguments.repeats, arguments.repeats)
    thresholds = arguments.thresholds
    sizes = (arguments.sweep_images, arguments.sweep_pairs)
    opened, case = open_world(*sizes, thresholds, arguments.seed)
    sweep(opened, case, range(thresholds), arguments.repeats)
    opened, case = open_world(
        arguments.open_images, arguments.open_pairs, thresholds, arguments.seed
    )
    compare("open", case, arguments.repeats, 1)
    few = np.linspace(0, thresholds - 1, arguments.extrapolate + 2).round().astype(int)[1:-1]
    sweep(opened, case, few.tolist(), arguments.repeats)


if __name__ == "__main__":
    main()
