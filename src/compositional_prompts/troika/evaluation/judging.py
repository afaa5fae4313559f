"""Judging images by scores that pass by in blocks of pairs: a few numbers an image remain.

A bias added to the scores of unseen pairs trades accuracy on images of seen pairs for accuracy on
images of unseen ones. Whether an image's true pair is predicted at a bias depends on five of its
scores only: that of the true pair, and the best of the seen and of the unseen pairs that come
before and after it. So images x pairs scores need not be kept.

Of equal scores the pair first by attribute, then by object, wins, in whatever order the columns
stand.

Source: Purushwalkam et al., ICCV 2019 (the evaluation); Mancini et al., CVPR 2021 (open world).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compositional_prompts.troika.evaluation.segment_maxima import (
    NARROW_SEGMENT,
    first_maximum,
    segment_maxima,
)

NO_KEY = 2**62
"""Key of the best pair where there is no pair: higher than every key."""

ALIGNED = 32
"""Columns of which multiples are gone through fastest."""


@dataclass(frozen=True)
class _Around:
    """Which pairs of a kind come before and after every pair of the world, for few pairs.

    Attributes:
        columns: those of the kind: a slice, which copies nothing, if they stand side by side.
        before: added to the scores of these columns it leaves those before the pair: 0, or minus
            infinity, ``[pairs, width]``; the width is rounded up, as sums and maxima are fastest.
        after: the same for those after it.
    """

    columns: slice | Tensor
    before: Tensor
    after: Tensor

    @classmethod
    def of(cls, keys: Tensor, columns: Tensor) -> _Around:
        count = len(columns)
        masks = torch.full((2, len(keys), max(1, -(-count // ALIGNED)) * ALIGNED), -torch.inf)
        others = keys[columns]
        masks[0, :, :count].masked_fill_(others < keys[:, None], 0.0)
        masks[1, :, :count].masked_fill_(others > keys[:, None], 0.0)
        if count and int(columns[-1] - columns[0]) == count - 1:
            return cls(slice(int(columns[0]), int(columns[-1]) + 1), *masks)
        return cls(columns, *masks)

    def maxima(self, scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Best score of this kind before and after the true pair, ``[images]`` each.

        A score that is no number makes all of its image's NaN.
        """
        if isinstance(self.columns, slice):
            scores = scores[:, self.columns]
        else:
            scores = scores.index_select(1, self.columns)
        kept = scores.new_empty(len(truth), self.before.shape[1])
        found = []
        for mask in (self.before, self.after):
            torch.index_select(mask.to(scores.dtype), 0, truth, out=kept)
            kept[:, : scores.shape[1]] += scores
            found.append(kept.amax(dim=1))
        return found[0], found[1]


@dataclass(frozen=True)
class World:
    """The candidate pairs of an evaluation: one column of the scores each.

    Attributes:
        attributes: attribute position of each pair, int64 ``[pairs]``.
        objects: object position of each pair, int64 ``[pairs]``.
        seen: whether the pair has training images, bool ``[pairs]``.
    """

    attributes: Tensor
    objects: Tensor
    seen: Tensor

    @classmethod
    def of(cls, pair_indices: Tensor, seen: Tensor) -> World:
        """The world of pairs given as attribute and object positions, int64 ``[pairs, 2]``."""
        return cls(pair_indices[:, 0], pair_indices[:, 1], seen)

    def __len__(self) -> int:
        return len(self.seen)

    @cached_property
    def object_stride(self) -> int:
        """Difference of the keys of neighbouring attributes."""
        return int(self.objects.max()) + 1 if len(self) else 1

    @cached_property
    def keys(self) -> Tensor:
        """Rank of each pair by attribute, then object: who wins a tie, int64 ``[pairs]``.

        Raises:
            ValueError: a pair is listed twice.
        """
        keys = self.attributes * self.object_stride + self.objects
        if len(keys.unique()) != len(keys):
            raise ValueError("A pair is listed twice among the candidates: list every pair once.")
        return keys

    def positions(self, keys: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Attribute and object positions of :attr:`keys`, on the CPU."""
        numbers = keys.cpu().numpy()  # NumPy's division by one number is vectorised
        attributes = numbers // self.object_stride
        return attributes, numbers - attributes * self.object_stride

    @cached_property
    def layout(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Keys and whether seen, on the CPU, for planning without waiting for the device."""
        return self.keys.cpu().numpy(), self.seen.cpu().numpy()

    @cached_property
    def around(self) -> tuple[_Around, _Around]:
        """What lies around every pair, among the unseen and among the seen ones, on the CPU."""
        keys, seen = self.layout
        kinds = (torch.from_numpy(np.flatnonzero(seen == kind)) for kind in (False, True))
        unseen_columns, seen_columns = kinds
        on_cpu = torch.from_numpy(keys)
        return _Around.of(on_cpu, unseen_columns), _Around.of(on_cpu, seen_columns)


@dataclass(frozen=True)
class Judgements:
    """All that the metrics need to know of each image, on the CPU.

    Scores are of the floating dtype that was judged (float32 for shorter ones), and minus infinity
    where there is no such pair. "Before" and "after" the true pair is by attribute, then object.

    Attributes:
        truth_score: of the true pair, ``[images]``; minus infinity if it is no candidate.
        seen_before: best of the seen pairs before the true one, ``[images]``.
        seen_after: best of the seen pairs after it, ``[images]``.
        unseen_before: best of the unseen pairs before it, ``[images]``.
        unseen_after: best of the unseen pairs after it, ``[images]``.
        attribute_hit: the best pair of all has the true attribute, bool ``[images]``.
        object_hit: the best pair of all has the true object, bool ``[images]``.
        seen: the true pair is a seen one, bool ``[images]``.
    """

    truth_score: Tensor
    seen_before: Tensor
    seen_after: Tensor
    unseen_before: Tensor
    unseen_after: Tensor
    attribute_hit: Tensor
    object_hit: Tensor
    seen: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Judgements]) -> Judgements:
        """The judgements of several batches as one; of no batch, judgements of no image."""
        if not parts:
            no, none = torch.zeros(0, dtype=torch.bool), torch.zeros(0)
            return cls(none, none, none, none, none, no, no, no)
        return cls(
            *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls))
        )

    def __len__(self) -> int:
        return len(self.seen)

    @property
    def seen_hit(self) -> Tensor:
        """The best seen pair is the true one, bool ``[images]``."""
        return self.seen & self._wins(self.seen_before, self.seen_after)

    @property
    def unseen_hit(self) -> Tensor:
        """The best unseen pair is the true one, bool ``[images]``."""
        return ~self.seen & self._wins(self.unseen_before, self.unseen_after)

    @property
    def margin(self) -> Tensor:
        """Best seen score minus best unseen score, float64 ``[images]``.

        Infinite where the world has only seen (+) or only unseen (-) pairs.
        """
        truth = self.truth_score
        seen = torch.maximum(self.seen_before, self.seen_after)
        unseen = torch.maximum(self.unseen_before, self.unseen_after)
        seen = torch.where(self.seen, torch.maximum(seen, truth), seen)
        unseen = torch.where(self.seen, unseen, torch.maximum(unseen, truth))
        return seen.double() - unseen.double()

    def _wins(self, before: Tensor, after: Tensor) -> Tensor:
        truth = self.truth_score
        return (truth > before) & (truth >= after) & (truth > -torch.inf)


@dataclass(frozen=True)
class Maxima:
    """What the columns of a world say of every image: all that its judgement needs.

    Attributes:
        truth: score of the true pair, ``[images]``.
        before: best of the pairs before the true one, unseen (0) and seen (1), ``[2, images]``.
        after: best of those after it, ``[2, images]``.
        best: best of all, ``[2, images]``.
        key: key of the best of all, int64 ``[2, images]``; :data:`NO_KEY` where there is none.
    """

    truth: Tensor
    before: Tensor
    after: Tensor
    best: Tensor
    key: Tensor

    @classmethod
    def of_no_column(cls, scores: Tensor) -> Maxima:
        shape = (2, scores.shape[0])
        low = torch.full(shape, -torch.inf, dtype=scores.dtype, device=scores.device)
        key = torch.full(shape, NO_KEY, device=scores.device)
        return cls(low[0].clone(), low.clone(), low.clone(), low.clone(), key)

    def biased(self, bias: float, seen: Tensor) -> Maxima:
        """With a bias added to the scores of unseen pairs.

        Args:
            bias: finite.
            seen: whether the true pair is a seen one, bool ``[images]``.
        """
        on_kinds = self.best.new_tensor([bias, 0.0])[:, None]
        return Maxima(
            truth=torch.where(seen, self.truth, self.truth + bias),
            before=self.before + on_kinds,
            after=self.after + on_kinds,
            best=self.best + on_kinds,
            key=self.key,
        )

    def copy(self) -> Maxima:
        return Maxima(*(getattr(self, field.name).clone() for field in fields(self)))


def _check_truth(truth: Tensor, pairs: int) -> None:
    if len(truth) and not 0 <= int(truth.min()) <= int(truth.max()) < pairs:
        raise ValueError(
            f"True columns must lie within 0 and {pairs - 1}, the columns of the world; found "
            f"{int(truth.min())} to {int(truth.max())}."
        )


def _check_numbers(best: Tensor, start: int, end: int) -> None:
    """Refuse images whose best score, of any kind in ``[kinds, images]``, is no number."""
    if best.numel() and not bool(best.max() < torch.inf):
        row = int((best < torch.inf).all(dim=0).logical_not().nonzero()[0])
        raise ValueError(
            f"Scores of image {row} are not numbers (columns {start} to {end} hold NaN or "
            f"infinity): the model diverged."
        )


def _wide(scores: Tensor) -> Tensor:
    """Scores in float32 or wider."""
    if not scores.dtype.is_floating_point:
        raise ValueError(f"Scores must be floating point numbers, found {scores.dtype}.")
    return scores.float() if torch.finfo(scores.dtype).bits < 32 else scores


class StreamedJudge:
    """Judges images by scores that come in blocks of pairs, for several worlds at once.

    A cut *k* stands for the world of the first *k* columns. A true pair that is not among them is
    never predicted. Memory is images x cuts, never images x pairs.
    """

    def __init__(self, world: World, truth: Tensor, cuts: Sequence[int] | None = None) -> None:
        """Start without scores.

        Args:
            world: the pairs; those of every cut are a prefix.
            truth: column of the true pair, int64 ``[images]``.
            cuts: number of columns of every world to be judged, ascending; default all pairs.

        Raises:
            ValueError: there is no pair, one is listed twice, a true column is none of the world,
                or the cuts are none, not ascending, or not within 1 to the number of pairs.
        """
        pairs = len(world)
        self.cuts = [pairs] if cuts is None else [int(cut) for cut in cuts]
        if pairs == 0:
            raise ValueError("The world has no pairs: there is nothing to choose from.")
        if not self.cuts or self.cuts != sorted(self.cuts):
            raise ValueError(f"Cuts must be at least one and ascending, found {self.cuts}.")
        if self.cuts[0] < 1 or self.cuts[-1] > pairs:
            raise ValueError(
                f"Cuts must lie within 1 and the {pairs} pairs of the world, found {self.cuts[0]} "
                f"to {self.cuts[-1]}."
            )
        _check_truth(truth, pairs)
        self.world = world
        self.truth = truth
        device = truth.device
        self._keys = world.keys.to(device)
        self._truth_keys = self._keys[truth]
        self._added = 0
        self._running: Maxima | None = None  # until the dtype of the scores is known
        self._snapshots: list[Maxima] = []

    @torch.no_grad()
    def add(self, scores: Tensor, start: int) -> None:
        """Take in the scores of the next columns.

        Args:
            scores: float ``[images, block]`` of columns ``start`` to ``start + block``, on the
                device of ``truth``. Minus infinity is a pair that must not be predicted.
            start: first column; blocks come in ascending order without gaps. Columns beyond the
                last cut need not come, and are not looked at.

        Raises:
            ValueError: the block is not the next one, has another number of images, another dtype
                or columns beyond the world, or holds a score that is NaN or infinite.
        """
        rows, block = len(self.truth), scores.shape[1]
        end = start + block
        if start != self._added or end > len(self.world) or scores.shape[0] != rows:
            raise ValueError(
                f"Expected scores of {rows} images from column {self._added} to at most "
                f"{len(self.world)}, found {scores.shape[0]} images and columns {start} to {end}."
            )
        scores = _wide(scores)
        if self._running is None:
            self._running = Maxima.of_no_column(scores)
        running = self._running
        if scores.dtype != running.truth.dtype:
            raise ValueError(
                f"Expected scores of {running.truth.dtype} as in the blocks before, found "
                f"{scores.dtype}."
            )
        self._added = end
        if block == 0 or start >= self.cuts[-1]:
            return
        here = (self.truth >= start) & (self.truth < end)
        found = scores.gather(1, (self.truth - start).clamp(0, block - 1)[:, None]).squeeze(1)
        running.truth.copy_(torch.where(here, found, running.truth))
        needed = min(end, self.cuts[-1])
        edges = [start, *(cut for cut in sorted(set(self.cuts)) if start < cut < needed), needed]
        for low, high in itertools.pairwise(edges):
            for kind in (0, 1):  # unseen, seen
                self._merge(running, kind, *self._segment(scores, start, low, high, kind))
            self._keep(running, high)
        _check_numbers(running.best, start, end)

    def maxima(self) -> list[Maxima]:
        """What the columns of every cut say, in the order of the cuts.

        Raises:
            ValueError: columns of the last cut are missing.
        """
        if self._added < self.cuts[-1]:
            raise ValueError(
                f"Scores of columns {self._added} to {self.cuts[-1]} have not been added."
            )
        return self._snapshots

    def finish(self, seen_factors: Sequence[float] | None = None) -> list[Judgements]:
        """The judgements of every cut, in the order of the cuts.

        Args:
            seen_factors: as :func:`judgements_of`.

        Raises:
            ValueError: as :meth:`maxima` and :func:`judgements_of`.
        """
        return [*judgements_of(self.maxima(), self.truth, self.world, self.cuts, seen_factors)]

    def _segment(
        self, scores: Tensor, start: int, low: int, high: int, kind: int
    ) -> tuple[Tensor, Tensor]:
        """Scores and keys of the unseen (0) or seen (1) ones of the columns ``low`` to ``high``."""
        columns = self._columns(low, high, kind)
        if isinstance(columns, slice):
            places = slice(columns.start - start, columns.stop - start)
            return scores[:, places], self._keys[columns]
        index = torch.from_numpy(columns).to(scores.device)
        return scores.index_select(1, index - start), self._keys[index]

    def _merge(self, running: Maxima, kind: int, scores: Tensor, keys: Tensor) -> None:
        """Take in columns of one kind by ascending key."""
        if len(keys) == 0:
            return
        maxima = segment_maxima(scores, keys, self._truth_keys)
        best, key = running.best[kind], running.key[kind]
        better = (maxima.best > best) | ((maxima.best == best) & (maxima.key < key))
        torch.where(better, maxima.key, key, out=key)
        torch.maximum(best, maxima.best, out=best)
        for side, found in ((running.before, maxima.before), (running.after, maxima.after)):
            torch.maximum(side[kind], found, out=side[kind])

    def _columns(self, low: int, high: int, kind: int) -> slice | NDArray[np.int64]:
        """Columns of one kind by ascending key: a slice, which copies nothing, if they are so."""
        keys, seen = self.world.layout
        columns = low + np.flatnonzero(seen[low:high] == bool(kind))
        of_columns = keys[columns]
        if len(columns) == 0:
            return slice(low, low)
        if bool((np.diff(of_columns) > 0).all()):
            if columns[-1] - columns[0] == len(columns) - 1:
                return slice(int(columns[0]), int(columns[-1]) + 1)
            return columns
        return columns[np.argsort(of_columns)]

    def _keep(self, running: Maxima, edge: int) -> None:
        """Keep the maxima for the cuts at ``edge``."""
        if cuts := self.cuts.count(edge):
            kept = running if edge == self.cuts[-1] else running.copy()  # nothing follows the last
            self._snapshots += [kept] * cuts


def judgements_of(
    maxima: Iterable[Maxima],
    truth: Tensor,
    world: World,
    cuts: Sequence[int],
    seen_factors: Sequence[float] | None = None,
) -> Iterator[Judgements]:
    """The judgements of every cut, in the order of the cuts, on the CPU; one is made at a time.

    Args:
        maxima: of the same images at every cut.
        truth: column of the true pair, int64 ``[images]``.
        world: the pairs.
        cuts: number of columns of every world judged, ascending.
        seen_factors: None: pairs beyond the cut are no candidates. Otherwise one number a cut that
            multiplies the scores of seen pairs, while the scores of unseen pairs beyond the cut
            become 0: the masking of the authors' code.

    Raises:
        ValueError: there are not as many factors as cuts, one is not above 0, or a seen pair lies
            beyond a cut.
    """
    if seen_factors is not None:
        _check_factors(seen_factors, world, cuts)
    for number, (cut, found) in enumerate(zip(cuts, maxima, strict=True)):
        factor = None if seen_factors is None else seen_factors[number]
        yield _judgements(found, truth, world, cut, factor)


def _check_factors(seen_factors: Sequence[float], world: World, cuts: Sequence[int]) -> None:
    if len(seen_factors) != len(cuts) or min(seen_factors) <= 0:
        raise ValueError(
            f"Expected a factor above 0 for each of the {len(cuts)} cuts, found "
            f"{list(seen_factors)}."
        )
    seen = np.flatnonzero(world.layout[1])
    if len(seen) and seen[-1] >= cuts[0]:
        raise ValueError(
            f"Seen pairs are always candidates, but column {seen[-1]} lies beyond the cut "
            f"{cuts[0]}: put the seen pairs first."
        )


def _judgements(
    maxima: Maxima, true_columns: Tensor, world: World, cut: int, seen_factor: float | None
) -> Judgements:
    device = true_columns.device
    truth_keys = world.keys.to(device)[true_columns]
    seen = world.seen.to(device)[true_columns]
    candidate = true_columns < cut
    truth = maxima.truth.masked_fill(~candidate, -torch.inf)
    before, after, best, key = maxima.before, maxima.after, maxima.best, maxima.key
    if seen_factor is not None:
        factors = best.new_tensor([1.0, seen_factor])[:, None]
        before, after, best = before * factors, after * factors, best * factors
        truth = torch.where(seen, truth * seen_factor, truth)
        zeros = world.layout[0][cut:]  # keys of the pairs whose scores became 0
        if len(zeros):
            first, last = int(zeros.min()), int(zeros.max())
            truth = truth.masked_fill(~candidate, 0.0)
            zero_before = torch.where(first < truth_keys, 0.0, -torch.inf)
            zero_after = torch.where(last > truth_keys, 0.0, -torch.inf)
            before = torch.stack([before[0].maximum(zero_before), before[1]])
            after = torch.stack([after[0].maximum(zero_after), after[1]])
            unseen_key = torch.where(best[0] > 0, key[0], first)
            unseen_key = torch.where(best[0] == 0, key[0].clamp(max=first), unseen_key)
            key = torch.stack([unseen_key, key[1]])
            best = torch.stack([best[0].clamp(min=0), best[1]])
    winner = torch.where(best[0] > best[1], key[0], key[1])
    winner = torch.where(best[0] == best[1], torch.minimum(key[0], key[1]), winner)
    attribute, object_ = world.positions(winner)
    true_attribute, true_object = world.positions(truth_keys)
    return Judgements(
        truth_score=truth.cpu(),
        seen_before=before[1].cpu(),
        seen_after=after[1].cpu(),
        unseen_before=before[0].cpu(),
        unseen_after=after[0].cpu(),
        attribute_hit=torch.from_numpy(attribute == true_attribute),
        object_hit=torch.from_numpy(object_ == true_object),
        seen=seen.cpu(),
    )


def judge(scores: Tensor, truth: Tensor, world: World) -> Judgements:
    """Reduce the scores of a batch to what the metrics need, on the CPU.

    Args:
        scores: score of every pair of the world, float ``[images, pairs]``.
        truth: column of the true pair, int64 ``[images]``.
        world: the pairs.

    Raises:
        ValueError: as :class:`StreamedJudge`, among others if a score is NaN or infinite.
    """
    few = 0 < len(world) <= NARROW_SEGMENT and scores.device.type == "cpu"
    if few and scores.shape == (len(truth), len(world)):
        return _judge_few_pairs(scores, truth, world)
    judge_of_all = StreamedJudge(world, truth)
    judge_of_all.add(scores, 0)
    return judge_of_all.finish()[0]


@torch.no_grad()
def _judge_few_pairs(scores: Tensor, truth: Tensor, world: World) -> Judgements:
    """As :func:`judge`, of so few pairs that a mask a pair fits into the cache.

    The best of all pairs is looked for only where it is not the true one.
    """
    _check_truth(truth, len(world))
    scores = _wide(scores)
    true = scores.gather(1, truth[:, None]).squeeze(1)
    unseen, seen = (around.maxima(scores, truth) for around in world.around)
    before, after = torch.maximum(unseen[0], seen[0]), torch.maximum(unseen[1], seen[1])
    best = torch.maximum(torch.maximum(before, after), true)
    _check_numbers(best[None], 0, len(world))
    missed = ~((true > before) & (true >= after))
    attribute_hit, object_hit = ~missed, ~missed
    rows = missed.nonzero().squeeze(1)
    winner = _first_best(scores.index_select(0, rows), world)
    for hit, primitive in ((attribute_hit, world.attributes), (object_hit, world.objects)):
        hit[rows] = primitive[winner] == primitive[truth[rows]]
    return Judgements(
        truth_score=true,
        seen_before=seen[0],
        seen_after=seen[1],
        unseen_before=unseen[0],
        unseen_after=unseen[1],
        attribute_hit=attribute_hit,
        object_hit=object_hit,
        seen=world.seen[truth],
    )


def _first_best(scores: Tensor, world: World) -> Tensor:
    """Column of each row's highest score; at a tie that of the lowest key, int64 ``[rows]``."""
    best, columns = first_maximum(scores)
    highest = scores.numpy() == best.numpy()[:, None]
    if np.count_nonzero(highest) > len(best):
        tied = np.flatnonzero(np.count_nonzero(highest, axis=1) > 1)
        order = world.layout[0].argsort()
        columns[tied] = torch.from_numpy(order[highest[np.ix_(tied, order)].argmax(axis=1)])
    return columns
