"""From rows of any data set to the catalog: images checked in parallel, bad ones set aside."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards, rewrite_labels
from compositional_prompts.catalog.truth import open_truth, respell_truth
from compositional_prompts.compute.progress import progress
from compositional_prompts.compute.rows.completed_rows import RowStream, open_row_stream
from compositional_prompts.compute.rows.computation import Item
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.image_check import ImageCheck, reason_in
from compositional_prompts.datasets.image_limits import PHOTO_REASONS, judge_photo
from compositional_prompts.datasets.joined_spellings import CountedTexts
from compositional_prompts.datasets.parameters import Download, MaxRejected
from compositional_prompts.files.digests import content_digest
from compositional_prompts.files.distinct import Distinct
from compositional_prompts.files.tables import required, write_table
from compositional_prompts.pipeline.section import Base
from compositional_prompts.prompt.text_form import require_said

log = logging.getLogger(__name__)

REJECTED = pa.schema(
    [
        required("image_id", pa.string()),
        required("path", pa.string()),
        required("reason", pa.string()),
    ]
)
"""``data/rejected.parquet``: the images that were set aside, and why."""


class IngestionError(ValueError):
    """A data set gives no catalog: it is empty, or too much of it is unusable."""


def ingest(
    selection: Selection,
    catalog: Path,
    truth: Path,
    rejected: Path,
    params: Download,
    base: Base,
) -> tuple[dict[str, Any], int]:
    """Check every image of ``selection`` and write the good ones as the catalog.

    Rows keep their order whatever checks them; memory holds some hundred images, and a few bytes an
    image_id. On an error the catalog is as it was before.

    Labels are pairs of attribute and object, or objects alone; a row that has an object alone in a
    data set of pairs, or an attribute alone, has half a label and is taken as one without. Labels
    and true words that are one in :mod:`~compositional_prompts.prompt.text_form` are joined.

    Args:
        selection: the data set's rows.
        catalog: the directory of Parquet shards to write.
        truth: the table (TRUTH) of what is true of them to write.
        rejected: the table (REJECTED) of images set aside to write.
        params: ``max_pixels``, ``max_rejected`` and ``shard_mib`` are used.
        base: where the checks are kept, and the engine that makes them.

    Returns:
        The metrics: ``images``, ``equal_images`` (beyond the first of their bytes), ``labelled``,
        ``products``, ``attributes``, ``objects``, ``pairs`` (numbers), ``rejected`` and ``dropped``
        (numbers by reason), ``grows`` (of the data set); where there are some, ``half_labelled``,
        of the images without a label; where any were, ``joined_spellings``
        (:meth:`~compositional_prompts.datasets.joined_spellings.SpelledTexts.metrics`); where a
        folder was searched, ``passed_over`` (numbers by
        extension); where a table was read, ``columns_kept_out`` (their names); where captions were
        looked for, ``further_captions`` (beyond the first of an image). And how many images were
        checked now and not before.

    Raises:
        IngestionError: a label says nothing, no row is left, or more than ``max_rejected`` of the
            rows are set aside.
        DuplicateImageError: two rows have one image_id.
        WorkerDiedError: a worker process died.
    """
    products = Distinct()
    texts = CountedTexts()
    said: set[str] = set()
    images = halves = 0
    aside: list[dict[str, str]] = []
    rows = progress(selection.rows, "images", selection.total)
    with (
        open_shards(catalog, params.shard_mib) as shards,
        open_truth(truth) as truths,
        open_row_stream(ImageCheck(max_pixels=params.max_pixels), base) as stream,
    ):
        for row, reason in _checked(rows, params.max_pixels, stream):
            if reason is not None:
                aside.append({"image_id": row.image_id, "path": row.path, "reason": reason})
                continue
            if row.object is None and row.attribute is not None:
                halves += 1
                row = row._replace(attribute=None)
            _require_said(row, said)
            row = texts.count(row)
            shards.write(row)
            truths.write(row)
            images += 1
            products.add(row.product_id.encode())
        _check_rejected(selection, aside, images, params.max_rejected)
        write_table(pa.Table.from_pylist(aside, REJECTED), rejected, REJECTED)
    pairs_only = bool(texts.pairs and texts.alone)
    if pairs_only:
        halves += texts.alone.total()
        texts.alone.clear()
    spelled = texts.spelled()
    attributes, objects = spelled.attributes.rewritten, spelled.objects.rewritten
    if attributes or objects or pairs_only:
        rewrite_labels(catalog, attributes, objects, pairs_only=pairs_only)
    if spelled.truth_rewritten:
        respell_truth(truth, spelled.truth_rewritten)
    spelled.log()
    _log_rows(selection, aside, images, shards.equal_images, rejected)
    if halves:
        log.warning(
            "warning: %d images have an attribute or an object, and not both: they count as "
            "without a label. Where one label is all there is, give it as the object of every "
            "image.",
            halves,
        )
    pairs = {spelled.pair(*pair) for pair in texts.pairs}
    metrics: dict[str, Any] = {
        "images": images,
        "equal_images": shards.equal_images,
        "labelled": texts.pairs.total() + texts.alone.total(),
        "products": len(products),
        "attributes": len({attribute for attribute, _ in pairs}),
        "objects": len(set(spelled.objects.kept.values())),
        "pairs": len(pairs),
        "rejected": _counts(aside),
        "dropped": dict(selection.dropped),
        "grows": params.chosen.grows,
    }
    if halves:
        metrics["half_labelled"] = halves
    metrics |= spelled.metrics()
    if selection.passed_over is not None:
        metrics["passed_over"] = dict(selection.passed_over)
    if selection.columns_kept_out is not None:
        metrics["columns_kept_out"] = list(selection.columns_kept_out)
    if selection.further_captions is not None:
        metrics["further_captions"] = selection.further_captions
    return metrics, stream.computed


def _require_said(row: CatalogRow, said: set[str]) -> None:
    """Raise unless the labels of a row are words; ``said`` are those that were looked at."""
    for kind, name in (("attribute", row.attribute), ("object", row.object)):
        if name is None or name in said:
            continue
        try:
            require_said(name)
        except ValueError as error:
            raise IngestionError(
                f"{row.path}: the {kind} {error}; write a word, or name it among the "
                "missing_labels of the data set."
            ) from None
        said.add(name)


def _log_rows(
    selection: Selection,
    aside: Sequence[Mapping[str, str]],
    images: int,
    equal: int,
    rejected: Path,
) -> None:
    dropped = "".join(f", {n} dropped ({why})" for why, n in selection.dropped.items() if n)
    log.info("%d images of %s%s", images, selection.source, dropped)
    if selection.columns_kept_out:
        log.info("columns that are not used: %s", ", ".join(selection.columns_kept_out))
    if selection.further_captions:
        log.info(
            "captions beyond the first of their image, not used: %d", selection.further_captions
        )
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
    own = sorted(found.keys() - PHOTO_REASONS)  # of the data set
    return {reason: found[reason] for reason in (*PHOTO_REASONS, *own) if reason in found}


def _item(row: CatalogRow) -> Item | None:
    """What is checked of a row that has bytes."""
    return Item(content_digest(row.image), row.path, row.image) if row.image else None


def _checked(
    rows: Iterable[CatalogRow], max_pixels: int, stream: RowStream[CatalogRow]
) -> Iterator[tuple[CatalogRow, str | None]]:
    """Every row with the reason to reject it, in the order of the rows."""
    for row, found in stream.rows_of(rows, _item):
        no_bytes = found is None
        reason = judge_photo(row.image, max_pixels).reason if no_bytes else reason_in(found)
        yield row, row.rejection or reason
