"""What labelled images reach in the closed and in the open world, by the rows kept of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from compositional_prompts.catalog.image_join import image_rows
from compositional_prompts.catalog.reading import iterate_ids
from compositional_prompts.catalog.splitting.split_tables import SPLITS
from compositional_prompts.files.tables import read_table
from compositional_prompts.results.bootstrap import product_codes
from compositional_prompts.troika.evaluation.czsl_intervals import CzslIntervals
from compositional_prompts.troika.evaluation.czsl_metrics import (
    best_bias,
    calibrated_metrics,
    czsl_metrics,
    sampled_metrics,
)
from compositional_prompts.troika.evaluation.feasibility import OpenWorld
from compositional_prompts.troika.evaluation.judged_rows import BRANCHES, stored_maxima
from compositional_prompts.troika.evaluation.judged_worlds import JudgedWorld, JudgedWorlds
from compositional_prompts.troika.evaluation.judging import Judgements, World, judgements_of
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary, labelled_images

UNTHRESHOLDED = ("best_unseen", "best_hm", "auc")
"""Metrics that are also given with all pairs as candidates."""

Protocol = Literal["exact", "sampled"]


@dataclass(frozen=True)
class MeasuredImages:
    """The labelled images that are measured, in the catalog's order.

    Attributes:
        rows: in the catalog, ascending, int64 ``[images]``.
        pairs: their pairs as positions in the vocabulary, int64 ``[images]``.
        products: number of the product of each, int64 ``[images]``.
        tested: which of them are of the test split, bool ``[images]``; the others are of
            validation, which chooses the bias, and the threshold of the open world.
    """

    rows: NDArray[np.int64]
    pairs: NDArray[np.int64]
    products: NDArray[np.int64]
    tested: NDArray[np.bool_]

    @classmethod
    def of(cls, splits: Path, catalog: Path, vocabulary: Vocabulary) -> MeasuredImages:
        """Read the labels of test and validation images.

        Args:
            splits: ``splits.parquet``.
            catalog: where the images are.
            vocabulary: the pairs of the data set.

        Raises:
            FileNotFoundError: a file is not there.
            ImageJoinError: an image is not in the catalog.
            MismatchedOutputsError: as :func:`labelled_images`.
        """
        parts = ("test", "val")
        labelled = [labelled_images(splits, vocabulary, part) for part in parts]
        ids = [image_id for images in labelled for image_id in images.image_ids]
        rows = image_rows(ids, iterate_ids(catalog), table=catalog, wanted_by=splits)
        pairs = np.concatenate([images.pairs for images in labelled])
        table = read_table(splits, SPLITS, ["image_id", "product_id"])
        places = image_rows(ids, table.column("image_id").chunks, table=splits)
        products = product_codes(table.column("product_id").take(pa.array(places)))
        tested = np.repeat([part == "test" for part in parts], [len(part) for part in labelled])
        order = rows.argsort()
        return cls(rows[order], pairs[order], products[order], tested[order])


def measure(
    rows: NDArray[Any],
    scorer: str,
    images: MeasuredImages,
    worlds: JudgedWorlds,
    protocol: Protocol,
    intervals: CzslIntervals,
) -> dict[str, dict[str, Any]]:
    """Metrics of one scorer in each world that was asked for, ``closed`` and ``open``.

    Memory is some 70 bytes a measured image beside the rows, which are 12 bytes a scorer and
    threshold.

    Args:
        rows: of :class:`~.judged_rows.PairJudgements`, of the images in their order.
        scorer: one of :attr:`~.judged_rows.PairJudgements.scorers`.
        images: which images they are of.
        worlds: which were judged.
        protocol: by which the threshold is chosen.
        intervals: of the test images; each world is measured there as ``{scorer}_{world}``.
    """
    found = {}
    if worlds.closed is not None and worlds.validation is not None:
        closed = worlds.closed, worlds.validation
        found["closed"] = _closed_metrics(rows, scorer, images, *closed, intervals)
    if worlds.open is not None and scorer not in BRANCHES:
        judged = dict(worlds)["open"]
        open_world = worlds.open, protocol, intervals
        found["open"] = _open_metrics(rows, scorer, images, judged, *open_world)
    return found


def _closed_metrics(
    rows: NDArray[Any],
    scorer: str,
    images: MeasuredImages,
    closed: JudgedWorld,
    validation: JudgedWorld,
    intervals: CzslIntervals,
) -> dict[str, Any]:
    """Metrics of the test images, and their accuracies at the bias that validation chooses."""
    prefix, tested = f"{scorer}_closed", images.tested
    (judgements,) = _judgements(rows, images, tested, prefix, closed)
    metrics = _world_metrics(judgements, closed.world, intervals, prefix)
    (validating,) = _judgements(rows, images, ~tested, f"{scorer}_validation", validation)
    bias = best_bias(validating)
    if bias is not None:
        truth = closed.place[torch.from_numpy(images.pairs[tested])]
        (maxima,) = stored_maxima(rows, tested, prefix, truth, closed)
        biased = [maxima.biased(bias, closed.world.seen[truth])]
        (at_bias,) = judgements_of(biased, truth, closed.world, closed.cuts)
        metrics["calibrated"] = calibrated_metrics(bias, at_bias)
    return metrics


def _judgements(
    rows: NDArray[Any],
    images: MeasuredImages,
    chosen: NDArray[np.bool_],
    prefix: str,
    judged: JudgedWorld,
    seen_factors: Sequence[float] | None = None,
) -> Iterator[Judgements]:
    """Judgements of the images of a mask at every cut, one at a time."""
    truth = judged.place[torch.from_numpy(images.pairs[chosen])]
    maxima = stored_maxima(rows, chosen, prefix, truth, judged)
    return judgements_of(maxima, truth, judged.world, judged.cuts, seen_factors)


def _open_metrics(
    rows: NDArray[Any],
    scorer: str,
    images: MeasuredImages,
    judged: JudgedWorld,
    open_world: OpenWorld,
    protocol: Protocol,
    intervals: CzslIntervals,
) -> dict[str, Any]:
    prefix, factors, tested = f"{scorer}_open", open_world.seen_factors, images.tested
    validating = _judgements(rows, images, ~tested, prefix, judged, factors)
    chosen = choose_threshold(validating, protocol)
    # All pairs, whatever the masking.
    (plain,) = deque(_judgements(rows, images, tested, prefix, judged), maxlen=1)
    measured = plain
    if chosen is not None:
        measured = next(
            islice(_judgements(rows, images, tested, prefix, judged, factors), chosen, None)
        )
    seen_pairs = int(open_world.world.seen.sum())
    cut = len(open_world.world) if chosen is None else open_world.cuts[chosen]
    return {
        **_world_metrics(measured, open_world.world, intervals, prefix),
        "threshold": None if chosen is None else float(open_world.thresholds[chosen]),
        "feasible_unseen_pairs": cut - seen_pairs,
        "unthresholded": intervals.metrics(f"{prefix}_unthresholded", plain, UNTHRESHOLDED),
    }


def choose_threshold(judgements: Iterable[Judgements], protocol: Protocol) -> int | None:
    """Which threshold has the highest AUC on validation images; at a tie the lowest threshold.

    Args:
        judgements: of the same images at each threshold, the highest threshold first.
        protocol: whose AUC.

    Returns:
        Position of the threshold. None without images of seen or without images of unseen pairs:
        there is no AUC to choose by, and all pairs should stay (the last threshold).
    """
    metrics = czsl_metrics if protocol == "exact" else sampled_metrics
    best, best_auc = None, -1.0
    for number, judged in enumerate(judgements):
        auc = metrics(judged)["auc"]
        if auc is not None and auc >= best_auc:
            best, best_auc = number, auc
    return best


def _world_metrics(
    judgements: Judgements, world: World, intervals: CzslIntervals, name: str
) -> dict[str, Any]:
    return {
        **intervals.metrics(name, judgements),
        "pairs": len(world),
        "seen_pairs": int(world.seen.sum()),
        "sampled": sampled_metrics(judgements),
    }
