"""From rows of any data set to the catalog: images checked in parallel, bad ones set aside."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from compositional_prompts.catalog.images import REJECTION_REASONS, rejection_reason
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.catalog.truth import open_truth
from compositional_prompts.compute.ordered_map import map_in_processes
from compositional_prompts.compute.progress import progress
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.parameters import Download, MaxRejected
from compositional_prompts.files.distinct import Distinct
from compositional_prompts.files.tables import required, write_table

log = logging.getLogger(__name__)

REJECTED = pa.schema(
    [
        required("image_id", pa.string()),
        required("path", pa.string()),
        required("reason", pa.string()),
    ]
)
"""``data/rejected.parquet``: the images that were set aside, and why."""

# What one task of a worker holds: enough to hide the hand-over, little enough for any memory.
_TASK_ROWS: Final = 64
_TASK_BYTES: Final = 8 * 2**20
_TASKS_A_WORKER: Final = 3


class IngestionError(ValueError):
    """A data set gives no catalog: it is empty, or too much of it is unusable."""


def ingest(
    selection: Selection,
    catalog: Path,
    truth: Path,
    rejected: Path,
    params: Download,
    workers: int,
) -> dict[str, Any]:
    """Check every image of ``selection`` and write the good ones as the catalog.

    Rows keep their order whatever ``workers`` is; memory holds a few tasks of images, and every
    image_id. On an error the catalog is as it was before.

    Args:
        selection: the data set's rows.
        catalog: the directory of Parquet shards to write.
        truth: the table (TRUTH) of what is true of them to write.
        rejected: the table (REJECTED) of images set aside to write.
        params: ``max_pixels``, ``max_rejected`` and ``shard_mib`` are used.
        workers: processes that decode.

    Returns:
        The metrics: ``images``, ``equal_images`` (beyond the first of their bytes), ``labelled``,
        ``products``, ``attributes``, ``objects``, ``pairs`` (numbers), ``rejected`` and ``dropped``
        (numbers by reason), ``grows`` (of the data set); where a folder was searched,
        ``passed_over`` (numbers by extension).

    Raises:
        IngestionError: no row is left, or more than ``max_rejected`` of the rows are set aside.
        DuplicateImageError: two rows have one image_id.
        WorkerDiedError: a worker process died.
    """
    products = Distinct()
    pairs: set[tuple[str, str]] = set()
    images = labelled = 0
    aside: list[dict[str, str]] = []
    rows = progress(selection.rows, "images", selection.total)
    with open_shards(catalog, params.shard_mib) as shards, open_truth(truth) as truths:
        for row, reason in _checked(rows, params.max_pixels, workers):
            if reason is not None:
                aside.append({"image_id": row.image_id, "path": row.path, "reason": reason})
                continue
            shards.write(row)
            truths.write(row)
            images += 1
            products.add(row.product_id.encode())
            if row.attribute is not None and row.object is not None:
                labelled += 1
                pairs.add((row.attribute, row.object))
        _check_rejected(selection, aside, images, params.max_rejected)
        write_table(pa.Table.from_pylist(aside, REJECTED), rejected, REJECTED)
    _log_rows(selection, aside, images, shards.equal_images, rejected)
    metrics: dict[str, Any] = {
        "images": images,
        "equal_images": shards.equal_images,
        "labelled": labelled,
        "products": len(products),
        "attributes": len({attribute for attribute, _ in pairs}),
        "objects": len({object_ for _, object_ in pairs}),
        "pairs": len(pairs),
        "rejected": _counts(aside),
        "dropped": dict(selection.dropped),
        "grows": params.chosen.grows,
    }
    if selection.passed_over is not None:
        metrics["passed_over"] = dict(selection.passed_over)
    return metrics


def _log_rows(
    selection: Selection,
    aside: Sequence[Mapping[str, str]],
    images: int,
    equal: int,
    rejected: Path,
) -> None:
    dropped = "".join(f", {n} dropped ({why})" for why, n in selection.dropped.items() if n)
    log.info("%d images of %s%s", images, selection.source, dropped)
    if equal:
        log.info("%d of them are byte for byte another one: their photos are computed once", equal)
    if aside:
        log.warning("warning: %d images are set aside: %s; %s", len(aside), _first(aside), rejected)


def _first(aside: Sequence[Mapping[str, str]]) -> str:
    return "; ".join(f"{row['path']} ({row['reason']})" for row in aside[:3])


def _check_rejected(
    selection: Selection, aside: Sequence[Mapping[str, str]], images: int, allowed: MaxRejected
) -> None:
    total = images + len(aside)
    counts = ", ".join(f"{count} {reason}" for reason, count in _counts(aside).items())
    if not allowed.allows(len(aside), total):
        raise IngestionError(
            f"{selection.source}: {len(aside)} of {total} images cannot be used ({counts}), more "
            f"than download.max_rejected allows (a share of {allowed.share:g}, and at least "
            f"{allowed.count}). First: {_first(aside)}. Repair or remove "
            "them, or raise share or count."
        )
    if not images:
        dropped = ", ".join(f"{count} {reason}" for reason, count in selection.dropped.items())
        raise IngestionError(
            f"empty data set: {selection.source} gave no image to use "
            f"(dropped: {dropped or 'none'}; set aside: {counts or 'none'})."
        )


def _counts(aside: Iterable[Mapping[str, str]]) -> dict[str, int]:
    found = Counter(row["reason"] for row in aside)
    return {reason: found[reason] for reason in REJECTION_REASONS if reason in found}


def _checked(
    rows: Iterable[CatalogRow], max_pixels: int, workers: int
) -> Iterator[tuple[CatalogRow, str | None]]:
    """Every row with the reason to reject it, in the order of the rows."""
    tasks, checked = tee(_tasks(rows))
    found = map_in_processes(
        partial(_reasons, max_pixels=max_pixels),
        checked,
        workers=workers,
        in_flight=_TASKS_A_WORKER * workers,
        died=_checking_died,
        initializer=_silence_pillow,
    )
    for task, reasons in zip(tasks, found, strict=True):
        yield from zip(task, reasons, strict=True)


def _checking_died(first: list[CatalogRow], last: list[CatalogRow]) -> str:
    return (
        f"it checked the images from {first[0].path} to {last[-1].path}: one of them crashes its "
        "decoder, or memory ran out. Remove it, or lower base.workers or download.max_pixels."
    )


def _tasks(rows: Iterable[CatalogRow]) -> Iterator[list[CatalogRow]]:
    task: list[CatalogRow] = []
    size = 0
    for row in rows:
        task.append(row)
        size += len(row.image or b"")
        if len(task) == _TASK_ROWS or size >= _TASK_BYTES:
            yield task
            task, size = [], 0
    if task:
        yield task


def _reasons(task: list[CatalogRow], max_pixels: int) -> list[str | None]:
    return [rejection_reason(row.image, max_pixels) for row in task]


def _silence_pillow() -> None:
    # Pillow warns of odd metadata beside pixels that are fine; the reasons say what is wrong.
    warnings.simplefilter("ignore")
