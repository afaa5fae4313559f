"""Measuring labelled images in the closed and in the open world, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compositional_prompts.clip.loading import Clip
from compositional_prompts.params import TroikaPredict
from compositional_prompts.troika.evaluation import (
    Judgements,
    StreamedJudge,
    World,
    czsl_metrics,
    judge,
    sampled_metrics,
)
from compositional_prompts.troika.feasibility import OpenWorld, choose_threshold
from compositional_prompts.troika.pair_scoring import ImageScores
from compositional_prompts.troika.vocabulary import Vocabulary, labelled_images

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
        place: column of each pair of the vocabulary; -1 if it is not of this world.
    """

    world: World
    columns: Tensor
    place: NDArray[np.int64]

    @classmethod
    def of(cls, vocabulary: Vocabulary, device: torch.device) -> ClosedWorld:
        columns = vocabulary.world("test")
        place = np.full(len(vocabulary.pairs), -1, dtype=np.int64)
        place[columns] = np.arange(len(columns))
        seen = np.array(vocabulary.seen, dtype=bool)[columns]
        pair_indices = torch.from_numpy(vocabulary.pair_indices[columns]).to(device)
        world = World.of(pair_indices, torch.from_numpy(seen).to(device))
        return cls(world, torch.from_numpy(columns).to(device), place)


class MeasuredWorlds:
    """Which images are measured, in which worlds, and which pairs are scored for it.

    Attributes:
        candidates: attribute and object position of every pair to be scored, int64 ``[pairs, 2]``:
            the open world in its order where images are measured in it, else the vocabulary.
        listed: position among the candidates of every pair of the vocabulary, int64 ``[pairs]``.
        closed: the closed world, or None.
        open: the open world, or None.
        open_world: its pairs on the device.
    """

    def __init__(
        self,
        splits: Path,
        vocabulary: Vocabulary,
        params: TroikaPredict,
        clip: Clip,
        device: torch.device,
    ) -> None:
        """Read the labels.

        Validation images are measured only where there is a threshold to choose.

        Args:
            splits: ``splits.parquet``.
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
        self._labels: dict[str, tuple[str, int]] = {}
        for split in ("val", "test") if self.open is not None else ("test",):
            labelled = labelled_images(splits, vocabulary, split)
            rows = zip(labelled.image_ids, labelled.pairs.tolist(), strict=True)
            self._labels |= {image_id: (split, pair) for image_id, pair in rows}
        self._missing = set(self._labels)
        pair_indices = torch.from_numpy(vocabulary.pair_indices)
        candidates, listed = pair_indices, torch.arange(len(pair_indices))
        if self.open is not None:
            open_pairs, seen = self.open.pair_indices.to(device), self.open.world.seen.to(device)
            self.open_world = World.of(open_pairs, seen)
            if self._labels:
                candidates = open_pairs
                listed = self.open.columns[pair_indices[:, 0], pair_indices[:, 1]]
        self.candidates, self.listed = candidates.to(device), listed.to(device)
        self._by_place = listed.argsort()
        self._places = listed[self._by_place]

    def part(self, image_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rows of a batch that are measured, validation images first, and all others; int64."""
        self._missing.difference_update(image_ids)
        splits = [self._labels.get(image_id, ("", 0))[0] for image_id in image_ids]
        rows: dict[str, list[int]] = {"val": [], "test": [], "": []}
        for row, split in enumerate(splits):
            rows[split].append(row)
        device = self.listed.device
        measured = torch.tensor(rows["val"] + rows["test"], dtype=torch.int64, device=device)
        return measured, torch.tensor(rows[""], dtype=torch.int64, device=device)

    def labels(self, image_ids: Sequence[str]) -> tuple[int, NDArray[np.int64]]:
        """Of measured images: how many (the first ones) are of validation, and their pairs."""
        labels = [self._labels[image_id] for image_id in image_ids]
        pairs = np.array([pair for _, pair in labels], dtype=np.int64)
        return sum(split == "val" for split, _ in labels), pairs

    def open_columns(self, pairs: NDArray[np.int64]) -> Tensor:
        """Columns of the open world of pairs of the vocabulary, int64."""
        return self.listed[torch.from_numpy(pairs).to(self.listed.device)]

    def listed_in(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Pairs of the vocabulary among the candidates ``start`` to ``end``.

        Returns:
            Their positions in the vocabulary and in the block, int64.
        """
        edges = torch.searchsorted(self._places, torch.tensor([start, end])).tolist()
        rows = slice(*edges)
        device = self.listed.device
        return self._by_place[rows].to(device), (self._places[rows] - start).to(device)

    def check_all_found(self, catalog: Path) -> None:
        """Check that every measured image was in a batch.

        Raises:
            ValueError: one was not; it is named.
        """
        if self._missing:
            raise ValueError(
                f"{catalog} does not hold {len(self._missing)} labelled images of validation and "
                f"test, among them {min(self._missing)!r}: run `dvc repro split`."
            )


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
        return Judgements.concatenate(self._parts)

    def _merge(self) -> None:
        if self._batches:
            self._parts.append(Judgements.concatenate(self._batches))
            self._batches = []


class Measurement:
    """What one scorer reaches in each world.

    Memory is some 25 bytes a test image, and in the open world as much a labelled image and
    threshold.
    """

    def __init__(self, worlds: MeasuredWorlds) -> None:
        self._worlds = worlds
        self._closed = _Log()
        thresholds = 0 if worlds.open is None else len(worlds.open.cuts)
        self._validation = [_Log() for _ in range(thresholds)]
        # The last one has all pairs as candidates, whatever the masking.
        self._test = [_Log() for _ in range(thresholds + 1)]

    def judge(self, image_ids: Sequence[str], images: ImageScores) -> Tensor:
        """Judge a batch of measured images.

        Args:
            image_ids: validation images first, as :meth:`MeasuredWorlds.part` orders them.
            images: the same.

        Returns:
            Scores of the vocabulary's pairs, ``[images, pairs]``.
        """
        worlds = self._worlds
        validation, pairs = worlds.labels(image_ids)
        if worlds.open is None:
            scores = images.scores(worlds.listed)
        else:
            scores = self._judge_open(worlds.open, validation, pairs, images)
        if worlds.closed is not None and validation < len(image_ids):
            columns = torch.from_numpy(worlds.closed.place[pairs[validation:]]).to(scores.device)
            tested = scores[validation:, worlds.closed.columns]
            self._closed.add(judge(tested, columns, worlds.closed.world))
        return scores

    def _judge_open(
        self,
        open_world: OpenWorld,
        validation: int,
        pairs: NDArray[np.int64],
        images: ImageScores,
    ) -> Tensor:
        worlds = self._worlds
        judging = StreamedJudge(worlds.open_world, worlds.open_columns(pairs), open_world.cuts)
        listed: Tensor | None = None
        for start, block in images.blocks():
            judging.add(block, start)
            if listed is None:
                listed = block.new_empty(len(images), len(worlds.listed))
            places, columns = worlds.listed_in(start, start + block.shape[1])
            listed[:, places] = block[:, columns]
        assert listed is not None
        judged = judging.finish(open_world.seen_factors)
        plain = judging.finish() if open_world.seen_factors is not None else judged
        if validation:
            for log, judgements in zip(self._validation, judged, strict=True):
                log.add(judgements.rows(0, validation))
        if validation < len(images):
            for log, judgements in zip(self._test, [*judged, plain[-1]], strict=True):
                log.add(judgements.rows(validation, len(images)))
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
        chosen = choose_threshold([log.joined() for log in self._validation], self._worlds.protocol)
        plain = self._test[-1].joined()
        judged = plain if chosen is None else self._test[chosen].joined()
        seen_pairs = int(open_world.world.seen.sum())
        cut = len(open_world.world) if chosen is None else open_world.cuts[chosen]
        unthresholded = czsl_metrics(plain)
        return {
            **_world_metrics(judged, open_world.world),
            "threshold": None if chosen is None else float(open_world.thresholds[chosen]),
            "feasible_unseen_pairs": cut - seen_pairs,
            "unthresholded": {name: unthresholded[name] for name in UNTHRESHOLDED},
        }


def _world_metrics(judgements: Judgements, world: World) -> dict[str, Any]:
    return {
        **czsl_metrics(judgements),
        "pairs": len(world),
        "seen_pairs": int(world.seen.sum()),
        "sampled": sampled_metrics(judgements),
    }
