"""Measuring labelled images in the closed and in the open world, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compositional_prompts.catalog.image_join import ImageIds, ImageJoin
from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.troika.evaluation.czsl_metrics import czsl_metrics, sampled_metrics
from compositional_prompts.troika.evaluation.feasibility import OpenWorld, choose_threshold
from compositional_prompts.troika.evaluation.judging import Judgements, StreamedJudge, World, judge
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary, labelled_images
from compositional_prompts.troika.pair_scoring import ImageScores
from compositional_prompts.troika.parameters import TroikaPredict

MERGED_BATCHES = 64
"""Batches whose judgements are joined into one: a tensor costs more than what a few images need."""

UNTHRESHOLDED = ("best_unseen", "best_hm", "auc")
"""Metrics that are also given with all pairs as candidates."""


@dataclass(frozen=True)
class ClosedWorld:
    """The seen pairs and the unseen pairs of the test split.

    Attributes:
        world: the pairs.
        columns: positions of the pairs in the vocabulary, int64 ``[columns]``.
        place: column of each pair of the vocabulary, int64 ``[pairs]`` on the CPU; -1 for pairs
            that are not of this world.
    """

    world: World
    columns: Tensor
    place: Tensor

    @classmethod
    def of(cls, vocabulary: Vocabulary, device: torch.device) -> ClosedWorld:
        columns = vocabulary.world("test")
        place = np.full(len(vocabulary.pairs), -1, dtype=np.int64)
        place[columns] = np.arange(len(columns))
        seen = np.array(vocabulary.seen, dtype=bool)[columns]
        pair_indices = torch.from_numpy(vocabulary.pair_indices[columns]).to(device)
        world = World.of(pair_indices, torch.from_numpy(seen).to(device))
        return cls(world, torch.from_numpy(columns).to(device), torch.from_numpy(place))


class MeasuredWorlds:
    """Which images are measured, in which worlds, and which pairs are scored for it.

    Attributes:
        candidates: attribute and object position of every pair to be scored, int64 ``[pairs, 2]``:
            the open world in its order where images are measured in it, else the vocabulary.
        listed: position among the candidates of every pair of the vocabulary, int64 ``[pairs]``.
        closed: the closed world, or None.
        open: the open world, or None.
        open_world: its pairs on the device.
        images: the images that are measured, to be found in the catalog.
        tested: which of them are of the test split, bool ``[images]`` on the CPU.
        pairs: their pairs as positions in the vocabulary, int64 ``[images]`` on the CPU.
    """

    def __init__(
        self,
        splits: Path,
        catalog: Path,
        vocabulary: Vocabulary,
        params: TroikaPredict,
        clip: Clip,
        device: torch.device,
    ) -> None:
        """Read the labels.

        Validation images are measured only where there is a threshold to choose.

        Args:
            splits: ``splits.parquet``.
            catalog: where the images are, for the error of one that is not there.
            vocabulary: the pairs of the data set.
            params: its ``worlds``, ``protocol`` and ``feasibility``.
            clip: for the feasibility of pairs.
            device: where scores will be.

        Raises:
            FileNotFoundError, ValueError: as :meth:`OpenWorld.of` and :func:`labelled_images`.
        """
        self.closed = ClosedWorld.of(vocabulary, device) if "closed" in params.worlds else None
        self.open: OpenWorld | None = None
        self.protocol = params.protocol
        if "open" in params.worlds:
            self.open = OpenWorld.of(vocabulary, params.feasibility, clip)
        test = labelled_images(splits, vocabulary, "test")
        image_ids, pairs = [*test.image_ids], [test.pairs]
        if self.open is not None:
            validation = labelled_images(splits, vocabulary, "val")
            image_ids += validation.image_ids
            pairs.append(validation.pairs)
        self.images = ImageJoin(image_ids, splits, catalog)
        self.tested = torch.arange(len(image_ids)) < len(test)
        self.pairs = torch.from_numpy(np.concatenate(pairs))
        pair_indices = torch.from_numpy(vocabulary.pair_indices)
        candidates, listed = pair_indices, torch.arange(len(pair_indices))
        if self.open is not None:
            open_pairs, seen = self.open.pair_indices.to(device), self.open.world.seen.to(device)
            self.open_world = World.of(open_pairs, seen)
            if image_ids:
                candidates = open_pairs
                listed = self.open.columns[pair_indices[:, 0], pair_indices[:, 1]]
        self.candidates, self.listed = candidates.to(device), listed.to(device)
        self._by_place = listed.argsort()
        self._places = listed[self._by_place]

    def part(self, image_ids: ImageIds) -> tuple[Tensor, Tensor, Tensor]:
        """Those of a batch that are measured: places among the measured images, int64 on the CPU.

        Then their rows in the batch and those of all others, int64.
        """
        places, rows = self.images.find(image_ids)
        others = np.delete(np.arange(len(image_ids)), rows)
        device = self.listed.device
        return (
            torch.from_numpy(places),
            torch.from_numpy(rows).to(device),
            torch.from_numpy(others).to(device),
        )

    def listed_in(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Pairs of the vocabulary among the candidates ``start`` to ``end``.

        Returns:
            Their positions in the vocabulary and in the block, int64.
        """
        edges = torch.searchsorted(self._places, torch.tensor([start, end])).tolist()
        rows = slice(*edges)
        device = self.listed.device
        return self._by_place[rows].to(device), (self._places[rows] - start).to(device)


class _Log:
    """Judgements of batches, joined now and then."""

    def __init__(self) -> None:
        self._parts: list[Judgements] = []
        self._batches: list[Judgements] = []

    def add(self, judgements: Judgements) -> None:
        self._batches.append(judgements)
        if len(self._batches) == MERGED_BATCHES:
            self._merge()

    def joined(self) -> Judgements:
        self._merge()
        self._parts = [Judgements.concatenate(self._parts)]  # so that it is not held twice
        return self._parts[0]

    def _merge(self) -> None:
        if self._batches:
            self._parts.append(Judgements.concatenate(self._batches))
            self._batches = []


class Measurement:
    """What one scorer reaches in each world.

    Memory is some 25 bytes a test image, and in the open world as much a measured image and
    threshold.
    """

    def __init__(self, worlds: MeasuredWorlds) -> None:
        self._worlds = worlds
        self._closed = _Log()
        thresholds = 0 if worlds.open is None else len(worlds.open.cuts)
        # Validation and test images at every threshold; the last with all pairs as candidates,
        # whatever the masking.
        self._open = [_Log() for _ in range(thresholds + 1)]
        self._tested: list[Tensor] = []

    def judge(self, places: Tensor, images: ImageScores) -> Tensor:
        """Judge a batch of measured images.

        Args:
            places: of at least one among the measured images, int64 on the CPU.
            images: the same images.

        Returns:
            Scores of the vocabulary's pairs, ``[images, pairs]``.
        """
        worlds = self._worlds
        tested, pairs = worlds.tested[places], worlds.pairs[places]
        if worlds.open is None:
            scores = images.scores(worlds.listed)
        else:
            scores = self._judge_open(worlds.open, pairs, images)
            self._tested.append(tested)
        if worlds.closed is not None and bool(tested.any()):
            truth = worlds.closed.place[pairs[tested]].to(scores.device)
            rows = scores[tested.to(scores.device)][:, worlds.closed.columns]
            self._closed.add(judge(rows, truth, worlds.closed.world))
        return scores

    def _judge_open(self, open_world: OpenWorld, pairs: Tensor, images: ImageScores) -> Tensor:
        worlds = self._worlds
        truth = worlds.listed[pairs.to(worlds.listed.device)]
        judging = StreamedJudge(worlds.open_world, truth, open_world.cuts)
        listed: Tensor | None = None
        for start, block in images.blocks():
            judging.add(block, start)
            if listed is None:
                listed = block.new_empty(len(images), len(worlds.listed))
            places, columns = worlds.listed_in(start, start + block.shape[1])
            listed[:, places] = block[:, columns]
        assert listed is not None  # every attribute and object has a pair
        judged = judging.finish(open_world.seen_factors)
        plain = judging.finish() if open_world.seen_factors is not None else judged
        for log, judgements in zip(self._open, [*judged, plain[-1]], strict=True):
            log.add(judgements)
        return listed

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics of each world that was asked for, ``closed`` and ``open``."""
        found = {}
        if self._worlds.closed is not None:
            found["closed"] = _world_metrics(self._closed.joined(), self._worlds.closed.world)
        if self._worlds.open is not None:
            found["open"] = self._open_metrics(self._worlds.open)
        return found

    def _open_metrics(self, open_world: OpenWorld) -> dict[str, Any]:
        tested = torch.cat([torch.zeros(0, dtype=torch.bool), *self._tested])
        *judged, plain = (log.joined() for log in self._open)
        chosen = choose_threshold(
            [_of_images(one, ~tested) for one in judged], self._worlds.protocol
        )
        plain = _of_images(plain, tested)
        measured = plain if chosen is None else _of_images(judged[chosen], tested)
        seen_pairs = int(open_world.world.seen.sum())
        cut = len(open_world.world) if chosen is None else open_world.cuts[chosen]
        unthresholded = czsl_metrics(plain)
        return {
            **_world_metrics(measured, open_world.world),
            "threshold": None if chosen is None else float(open_world.thresholds[chosen]),
            "feasible_unseen_pairs": cut - seen_pairs,
            "unthresholded": {name: unthresholded[name] for name in UNTHRESHOLDED},
        }


def _of_images(judgements: Judgements, chosen: Tensor) -> Judgements:
    """The judgements of the images of a mask, bool ``[images]``."""
    return Judgements(*(getattr(judgements, field.name)[chosen] for field in fields(Judgements)))


def _world_metrics(judgements: Judgements, world: World) -> dict[str, Any]:
    return {
        **czsl_metrics(judgements),
        "pairs": len(world),
        "seen_pairs": int(world.seen.sum()),
        "sampled": sampled_metrics(judgements),
    }
