"""Drift: the photos of today beside those that a kept model was trained from."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.tables import read_table
from compositional_prompts.growth.confidence import (
    Confidence,
    chosen_words,
    pair_confidence,
    unsure_below,
    word_confidence,
)
from compositional_prompts.prompt.pair import pair_name
from compositional_prompts.results.kept_models import (
    CONTENTS,
    CONTENTS_FILE,
    Origin,
    read_origin,
)

log = logging.getLogger(__name__)

PARTS: Final = ("trained", "held_out", "new")
"""Photos that the model learnt from; that were there then, and held out; and that came since."""

ENOUGH: Final = 30
"""Photos of which a share says something: of fewer it is 9 percentage points off, give or take
(0.5 / sqrt(30))."""

MORE_UNSURE: Final = 0.1
"""By so much the share of unsure new photos may lie above that of the held-out ones without a
warning."""

SHOWN: Final = 5
"""Unknown names that a warning lists."""

LABELS = ["image_id", "content", "attribute", "object"]


@dataclass(frozen=True)
class DriftPaths:
    """What drift is measured of.

    Attributes:
        catalog: the photos and labels of today.
        original: ``original.parquet``.
        enhanced: ``enhanced.parquet``.
        words: ``words.parquet``, the vocabulary of today.
        troika_source: what ``troika_train`` takes: a kept model, or that it trains.
        adapter_source: the same of ``finetune``.
    """

    catalog: Path
    original: Path
    enhanced: Path
    words: Path
    troika_source: Path
    adapter_source: Path


def measure_drift(paths: DriftPaths) -> tuple[dict[str, Any], int]:
    """The content of ``metrics/drift.json``: of each model, whether it is a kept one, and if so

    - ``photos``: how many are ``trained``, ``held_out`` and ``new``, and how many are ``gone``;
    - ``unsure``: of each of these, how many are named less surely than nine of ten of the held-out
      photos, by place; where fewer than :data:`ENOUGH` of these are left, than they were when the
      model was kept;
    - ``unknown``: photos with a label, or with a word by CLIP, that the model does not know.

    and ``warnings``, sentences, which go to the log too. Beside it the number of photos that were
    compared: 0 where no model is a kept one. Memory holds labels, contents and a few
    numbers a photo.

    Raises:
        KeptModelError: an origin cannot be read.
        FileNotFoundError, SchemaError, ImageJoinError: a table is missing, not as declared, or not
            of the photos of the catalog.
    """
    require_outputs(paths.troika_source, paths.adapter_source, paths.catalog)
    found: dict[str, Any] = {}
    troika, captioner = read_origin(paths.troika_source), read_origin(paths.adapter_source)
    any_kept = troika is not None or captioner is not None
    labels = read_labels(paths.catalog, LABELS) if any_kept else None
    if troika is not None and labels is not None:
        confidence = pair_confidence(paths.original, labels.column("image_id"), paths.catalog)
        found["troika"] = _drift(labels, paths.troika_source, troika, confidence)
    if captioner is not None and labels is not None:
        words = read_vocabulary(paths.words).words
        groups = tuple(words)
        ids = labels.column("image_id")
        confidence = word_confidence(paths.enhanced, groups, ids, paths.catalog)
        drift = _drift(labels, paths.adapter_source, captioner, confidence)
        chosen = chosen_words(paths.enhanced, groups, ids, paths.catalog)
        for group in groups:
            known = captioner.words.get(group, ())
            if unknown := _unknown(chosen.column(group), known):
                drift["unknown"][group] = unknown
        found["captioner"] = drift
    told = {
        name for counts in found.get("troika", {}).get("unknown", {}).values() for name in counts
    }
    sentences = [
        *_warnings("troika", "Troika", found),
        *_warnings("captioner", "captioner", found, told),
    ]
    for sentence in sentences:
        log.warning("warning: %s", sentence)
    metrics = {
        **{name: found.get(name, {"kept": False}) for name in ("troika", "captioner")},
        "warnings": sentences,
    }
    return metrics, 0 if labels is None else labels.num_rows


def parts_of(contents: pa.ChunkedArray, source: Path) -> tuple[NDArray[np.int64], int]:
    """Which of :data:`PARTS` every photo is in, int64 ``[photos]``; and how many are gone.

    Args:
        contents: of every photo, 16 bytes each.
        source: the folder of a kept model.
    """
    then = read_table(source / CONTENTS_FILE, CONTENTS)
    known = then.column("content").combine_chunks()
    place = pc.index_in(contents, value_set=known).combine_chunks()
    trained = then.column("trained").take(place).combine_chunks()
    part = pc.if_else(pc.is_null(trained), 2, pc.if_else(trained, 0, 1))
    part = pc.fill_null(part, 2).to_numpy(zero_copy_only=False).astype(np.int64)
    return part, len(known) - len(place.drop_null().unique())


def _drift(
    labels: pa.Table, source: Path, origin: Origin, confidence: Confidence
) -> dict[str, Any]:
    part, gone = parts_of(labels.column("content"), source)
    photos = np.bincount(part, minlength=len(PARTS)).tolist()
    held_out = part == PARTS.index("held_out")
    bounds = dict(origin.unsure_below)
    if held_out.sum() >= ENOUGH:
        # More pairs, or words, to choose from make every photo less sure: those that are still
        # there tell by how much.
        bounds = unsure_below(confidence, held_out)
    return {
        "kept": True,
        "photos": {**dict(zip(PARTS, photos, strict=True)), "gone": gone},
        "unsure": {
            place: _unsure(values < bounds[place], part)
            for place, values in confidence.items()
            if place in bounds
        },
        "unknown": _unknown_labels(labels, origin),
    }


def _unsure(unsure: NDArray[np.bool_], part: NDArray[np.int64]) -> dict[str, Any]:
    found = {}
    for number, name in enumerate(PARTS):
        photos = int((part == number).sum())
        count = int(unsure[part == number].sum())
        found[name] = {"photos": count, "share": count / photos if photos else None}
    return found


def _unknown_labels(labels: pa.Table, origin: Origin) -> dict[str, dict[str, int]]:
    """Photos by a label that the model does not know; by a pair where it knows both words.

    Of a model that names objects alone an object is all that there is to know.
    """
    attributes, objects = labels.column("attribute"), labels.column("object")
    found = {
        "attribute": _unknown(attributes, origin.attributes),
        "object": _unknown(objects, origin.objects),
    }
    if not origin.attributes:
        del found["attribute"]
        return {kind: counts for kind, counts in found.items() if counts}
    known = pc.and_(
        pc.is_in(attributes, pa.array(origin.attributes, pa.string())),
        pc.is_in(objects, pa.array(origin.objects, pa.string())),
    )
    pairs = pa.table({"attribute": attributes, "object": objects}).filter(known)
    counted = pairs.group_by(["attribute", "object"]).aggregate([([], "count_all")])
    rows = zip(*(counted.column(name).to_pylist() for name in counted.column_names), strict=True)
    named = {pair_name(attribute, name): count for attribute, name, count in rows}
    trained = {*origin.pairs}
    found["pair"] = _sorted({name: n for name, n in named.items() if name not in trained})
    return {kind: counts for kind, counts in found.items() if counts}


def _unknown(values: pa.ChunkedArray, known: Sequence[str]) -> dict[str, int]:
    """How often each value stands there that is none of ``known``; nulls do not count."""
    values = values.drop_null()
    unknown = values.filter(pc.invert(pc.is_in(values, pa.array(known, pa.string()))))
    counted = unknown.value_counts().to_pylist()
    return _sorted({row["values"]: row["counts"] for row in counted})


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _warnings(
    name: str, called: str, found: Mapping[str, Any], told: Collection[str] = ()
) -> Iterator[str]:
    """What whoever uses the texts of a kept model must know; unknown names once, if ``told``."""
    drift = found.get(name)
    if drift is None:
        return
    section = {"troika": "troika_train", "captioner": "finetune"}[name]
    remedy = f"train it again ({section}.mode: train), and keep that one."
    unknown = {
        word: count
        for kind, counts in drift["unknown"].items()
        if kind != "pair"
        for word, count in counts.items()
        if word not in told
    }
    if unknown:
        listed = [f"{word} ({_photos(count)})" for word, count in _sorted(unknown).items()]
        more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        yield (
            f"The kept {called} was trained without {', '.join(listed[:SHOWN])}{more}, and gives "
            f"these photos words that it knows: {remedy}"
        )
    for place, parts in drift["unsure"].items():
        new, before = parts["new"]["share"], parts["held_out"]["share"]
        if new is None or before is None or drift["photos"]["new"] < ENOUGH:
            continue
        if new - before > MORE_UNSURE:
            yield (
                f"{new:.0%} of the new photos have an unsure {place}, and {before:.0%} of those "
                f"that were held out when the kept {called} was trained: look at the new ones; if "
                f"they are of other kinds, {remedy}"
            )


def _photos(number: int) -> str:
    return f"{number:,} photo{'s' if number != 1 else ''}"
