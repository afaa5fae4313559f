"""What a labelled image is named and how its true pair stands, as a row that is computed once.

Of each world the row keeps the maxima around the true pair at every cut, not the scores. What is
made of them, the masking, the threshold and the metrics, decides no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.compute.rows.computation import Item, Worker, key_array, row_key
from compositional_prompts.troika.evaluation.judged_worlds import JudgedWorld, JudgedWorlds
from compositional_prompts.troika.evaluation.judging import NO_KEY, Maxima, StreamedJudge
from compositional_prompts.troika.model.branch_scores import ScoreMix
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.naming import (
    LoadedModels,
    PairNames,
    best_pairs,
    named_dtype,
)
from compositional_prompts.troika.pair_scoring import (
    MIB,
    ImageScores,
    Scorer,
    TroikaScorer,
    TroikaScores,
)
from compositional_prompts.troika.zero_shot import ZeroShot

BRANCHES: Final = MappingProxyType(
    {
        "composition": ScoreMix(1, 0, 0),
        "primitives": ScoreMix(0, 1, 0),
        "unweighted": ScoreMix(1, 1, 0),
    }
)
"""Scores that are judged beside the model's own: each branch alone, and both as in the paper."""

ABSENT = -1
"""In a row, for :data:`NO_KEY`."""


class LabelledPhoto(NamedTuple):
    """An encoded photo and the position of its true pair in the vocabulary."""

    image: bytes
    pair: int


@dataclass(frozen=True)
class LabelledPhotos:
    """The source of labelled photos, keyed by content and label.

    Attributes:
        photos: of the catalog.
        rows: which of them, ascending, int64 ``[n]``.
        pairs: position of the true pair of each in the vocabulary, int64 ``[n]``.
        vocabulary: the pairs.
    """

    photos: CatalogPhotos
    rows: NDArray[np.int64]
    pairs: NDArray[np.int64]
    vocabulary: Vocabulary

    @property
    def keys(self) -> NDArray[np.void]:
        """``V16 [n]``."""
        contents = self.photos.keys[self.rows].tolist()
        labels = (self.vocabulary.pairs[pair] for pair in self.pairs.tolist())
        keys = [row_key(content, *pair) for content, pair in zip(contents, labels, strict=True)]
        return key_array(keys)

    def items(self, positions: NDArray[np.int64]) -> Iterator[Item]:
        """The photos at ascending positions; their value is a :class:`LabelledPhoto`."""
        pairs = self.pairs[positions].tolist()
        for item, pair in zip(self.photos.items(self.rows[positions]), pairs, strict=True):
            key = row_key(item.key, *self.vocabulary.pairs[pair])
            yield Item(key, item.name, LabelledPhoto(item.value, pair))


@dataclass(frozen=True, kw_only=True)
class PairJudgements(PairNames):
    """Rows of a :class:`LabelledPhoto`: as of :class:`PairNames`, and maxima of every world.

    Fields are those of ``PairNames`` and, for every scorer and world that it is judged in, those of
    :func:`maxima_fields`. An image whose pair is none of a world's has zeros there.

    Attributes:
        worlds: to judge in.
        trained: whether Troika was trained.
    """

    name: ClassVar[str] = "troika_judging"

    worlds: JudgedWorlds
    trained: bool

    def settings(self) -> Mapping[str, Any]:
        return {**super().settings(), "worlds": self.worlds.content()}

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers; the first names the images.

        ``troika`` is the score by the model's own weights, where it was trained; then come
        :data:`BRANCHES`, and ``zero_shot``, the frozen CLIP.
        """
        return ("troika", *BRANCHES, "zero_shot") if self.trained else ("zero_shot",)

    def judged_in(self, scorer: str) -> Iterator[tuple[str, JudgedWorld]]:
        """The worlds that a scorer is judged in: branches are not in the open one."""
        for world, judged in self.worlds:
            if world != "open" or scorer not in BRANCHES:
                yield world, judged

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a row."""
        fields: list[Any] = [*named_dtype(self.kept).descr]
        for scorer in self.scorers:
            for world, judged in self.judged_in(scorer):
                fields += maxima_fields(f"{scorer}_{world}", len(judged.cuts))
        return np.dtype(fields)

    def start(self) -> Worker:
        return _JudgingWorker(self, self.load())


def maxima_fields(prefix: str, cuts: int) -> list[Any]:
    """The fields of one scorer and world: scores float32, keys as :attr:`Maxima.key`.

    Seen pairs are candidates at every cut, so that theirs stand once.
    """
    return [
        (f"{prefix}_truth", np.float32),
        (f"{prefix}_seen_before", np.float32),
        (f"{prefix}_seen_after", np.float32),
        (f"{prefix}_seen_key", np.int32),
        (f"{prefix}_unseen_before", np.float32, (cuts,)),
        (f"{prefix}_unseen_after", np.float32, (cuts,)),
        (f"{prefix}_unseen_key", np.int32, (cuts,)),
    ]


def put_maxima(
    rows: NDArray[Any], prefix: str, images: NDArray[np.int64], found: list[Maxima]
) -> None:
    """Write the maxima of some images into their rows.

    Args:
        rows: with the fields of :func:`maxima_fields`, ``[n]``.
        prefix: of these fields.
        images: which rows, int64 ``[images]``.
        found: the maxima at every cut; seen pairs are the same at all of them.
    """

    def put(name: str, values: Tensor) -> None:
        rows[f"{prefix}_{name}"][images] = values.cpu().numpy()

    def keys(values: Tensor) -> Tensor:
        return values.masked_fill(values == NO_KEY, ABSENT)

    last = found[-1]  # the score of a true pair is known once it was among the columns
    put("truth", last.truth)
    put("seen_before", last.before[1])
    put("seen_after", last.after[1])
    put("seen_key", keys(last.key[1]))
    put("unseen_before", torch.stack([maxima.before[0] for maxima in found], dim=1))
    put("unseen_after", torch.stack([maxima.after[0] for maxima in found], dim=1))
    put("unseen_key", keys(torch.stack([maxima.key[0] for maxima in found], dim=1)))


def stored_maxima(
    rows: NDArray[Any],
    images: NDArray[np.bool_],
    prefix: str,
    truth: Tensor,
    judged: JudgedWorld,
) -> Iterator[Maxima]:
    """The maxima at every cut, one after the other, of images whose pair is one of the world's.

    Args:
        rows: of :class:`PairJudgements`, ``[n]``.
        images: which of them, bool ``[n]``.
        prefix: ``{scorer}_{world}``.
        truth: column of the true pair, int64 ``[images]``.
        judged: the world.
    """

    def get(name: str) -> Tensor:
        return torch.from_numpy(rows[f"{prefix}_{name}"][images])

    def keys(values: Tensor) -> Tensor:
        return values.long().masked_fill(values == ABSENT, NO_KEY)

    seen, score = judged.world.seen[truth], get("truth")
    seen_before, seen_after, seen_key = get("seen_before"), get("seen_after"), keys(get("seen_key"))
    unseen_before, unseen_after = get("unseen_before"), get("unseen_after")
    unseen_key = keys(get("unseen_key"))
    none = torch.full_like(score, -torch.inf)
    seen_best = torch.maximum(seen_before, seen_after).maximum(torch.where(seen, score, none))
    for place, cut in enumerate(judged.cuts):
        before, after = unseen_before[:, place], unseen_after[:, place]
        own = torch.where(seen | (truth >= cut), none, score)
        unseen_best = torch.maximum(before, after).maximum(own)
        yield Maxima(
            truth=score,
            before=torch.stack([before, seen_before]),
            after=torch.stack([after, seen_after]),
            best=torch.stack([unseen_best, seen_best]),
            key=torch.stack([unseen_key[:, place], seen_key]),
        )


class _JudgingWorker:
    def __init__(self, computation: PairJudgements, models: LoadedModels) -> None:
        self._computation = computation
        self._clip = models.clip
        self._device = torch.device(computation.device)
        worlds, block = computation.worlds, computation.block_mib * MIB
        zero_shot = ZeroShot(models.clip, computation.vocabulary, worlds.candidates, block)
        self._scorer: Scorer = zero_shot
        if models.troika is not None:
            self._scorer = TroikaScorer(models.troika, worlds.candidates, block, zero_shot)
        self._worlds = worlds
        self._by_place = worlds.listed.argsort()
        self._places = worlds.listed[self._by_place]

    def prepare(self, value: LabelledPhoto) -> tuple[Tensor, int]:
        return self._clip.preprocess(decode_rgb(value.image)), value.pair

    def compute(self, prepared: Sequence[tuple[Tensor, int]]) -> NDArray[Any]:
        pixels = torch.stack([image for image, _ in prepared]).to(self._device)
        pairs = torch.tensor([pair for _, pair in prepared])
        rows = np.zeros(len(prepared), self._computation.dtype)
        listed = self._judge(_blocks(self._scorer(pixels)), pairs, rows)
        named = best_pairs(listed[self._computation.scorers[0]], self._computation.kept)
        for field in named.dtype.names or ():
            rows[field] = named[field]
        return rows

    def _judge(
        self,
        blocks: Iterator[tuple[int, dict[str, Tensor]]],
        pairs: Tensor,
        rows: NDArray[Any],
    ) -> dict[str, Tensor]:
        """Fill in the maxima of all scorers, a block of candidates after the other.

        Returns:
            Scores of the vocabulary's pairs by each scorer, ``[images, pairs]``.
        """
        judges: dict[str, StreamedJudge] = {}
        listed: dict[str, Tensor] = {}
        for start, block in blocks:
            end = start + next(iter(block.values())).shape[1]
            edges = torch.searchsorted(self._places, torch.tensor([start, end]))
            here = slice(*edges.tolist())
            columns = (self._places[here] - start).to(self._device)
            places = self._by_place[here].to(self._device)
            for scorer, scores in block.items():
                if start == 0:
                    listed[scorer] = scores.new_empty(len(pairs), len(self._places))
                    worlds = dict(self._computation.judged_in(scorer))
                    if judged := worlds.get("open"):
                        truth = judged.place[pairs].to(self._device)
                        judges[scorer] = StreamedJudge(judged.world, truth, judged.cuts)
                if scorer in judges:
                    judges[scorer].add(scores, start)
                listed[scorer][:, places] = scores[:, columns]
        for scorer, judge in judges.items():
            put_maxima(rows, f"{scorer}_open", np.arange(len(rows)), judge.maxima())
        for scorer, scores in listed.items():
            for world, judged in self._computation.judged_in(scorer):
                if world != "open":
                    _judge_closed(scores, pairs, rows, f"{scorer}_{world}", judged)
        return listed


def _blocks(images: ImageScores) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Scores of all candidates by each scorer, from one pass through the traction."""
    if not isinstance(images, TroikaScores):
        for start, scores in images.blocks():
            yield start, {"zero_shot": scores}
        return
    mix = images.scorer.model.config.score_mix
    for start, branches in images.branch_blocks():
        assert branches.zero_shot is not None
        mixed = {name: branches.joined(of_branch) for name, of_branch in BRANCHES.items()}
        yield start, {"troika": branches.joined(mix), **mixed, "zero_shot": branches.zero_shot}


def _judge_closed(
    scores: Tensor, pairs: Tensor, rows: NDArray[Any], prefix: str, closed: JudgedWorld
) -> None:
    """Fill in the maxima of the images whose pair is one of the world's."""
    truth = closed.place[pairs]
    inside = (truth >= 0).nonzero().squeeze(1)
    if not len(inside):
        return
    columns = (closed.place >= 0).nonzero().squeeze(1)
    judge = StreamedJudge(closed.world, truth[inside].to(scores.device), closed.cuts)
    judge.add(scores[inside.to(scores.device)][:, columns.to(scores.device)], 0)
    put_maxima(rows, prefix, inside.numpy(), judge.maxima())
