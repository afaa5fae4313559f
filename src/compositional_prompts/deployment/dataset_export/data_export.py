"""The enhanced prompts and captions with their photos as a data set, in the layout asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from compositional_prompts import __version__
from compositional_prompts.catalog.reading import count_rows
from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES
from compositional_prompts.compute.ordered_map import batched
from compositional_prompts.compute.progress import progress
from compositional_prompts.deployment.dataset_export.dataset_card import write_dataset_card
from compositional_prompts.deployment.dataset_export.earlier_rows import (
    MAKER,
    MANIFEST,
    EarlierRows,
    KeysWriter,
    keys_of,
    read_manifest,
)
from compositional_prompts.deployment.dataset_export.exported_rows import (
    CONFIDENCE,
    PAIR,
    Captions,
    ExportColumns,
    ExportedRow,
    ExportPaths,
    ExportReader,
    export_paths,
)
from compositional_prompts.deployment.dataset_export.forms.coco_json import CocoJson
from compositional_prompts.deployment.dataset_export.forms.form_writer import FormWriter
from compositional_prompts.deployment.dataset_export.forms.hub_parquet import HubParquet
from compositional_prompts.deployment.dataset_export.forms.image_folder import ImageFolder
from compositional_prompts.deployment.dataset_export.forms.shop_csv import ShopCsv
from compositional_prompts.deployment.dataset_export.forms.webdataset_tars import WebdatasetTars
from compositional_prompts.deployment.dataset_export.photo_files import photo_file
from compositional_prompts.deployment.publishing.export_place import check_place
from compositional_prompts.files.outputs import atomic_directory, require_outputs
from compositional_prompts.project.whole_params import Params

Form = Literal["hub", "jsonl", "csv", "coco", "webdataset"]

_WITHOUT_PHOTOS: Final = ("csv",)
_ROWS_AT_ONCE: Final = 256

_WRITERS: Final[Mapping[Form, Callable[[Path, ExportColumns], FormWriter]]] = {
    "hub": lambda folder, columns: HubParquet(folder, columns.schema),
    "jsonl": lambda folder, columns: ImageFolder(folder),
    "csv": lambda folder, columns: ShopCsv(folder, columns.schema),
    "coco": lambda folder, columns: CocoJson(folder, MAKER),
    "webdataset": lambda folder, columns: WebdatasetTars(folder),
}

LEFT_OUT: Final = {
    "other_split": "of other splits",
    "no_caption": "without a caption",
    "unsure": "below --min-confidence, or of unknown confidence",
    "not_new": "not new",
}
"""Why rows are left out, in the order in which it is looked for."""


class NothingToExportError(ValueError):
    """No row is left; what there was is as good as before."""


@dataclass(frozen=True)
class ExportSettings:
    """What is exported, and how.

    Attributes:
        form: the layout.
        captions: which text is the caption.
        splits: caption splits that are exported.
        min_confidence: the least that a row may have, by column: ``confidence`` is the least of
            all that its caption says; a place that it says nothing of is passed over.
        earlier: exports and revisions whose rows are left out.
        license_id: as the hub names it, or None to choose by what is known.
        force: replace an earlier export.
    """

    form: Form
    captions: Captions
    splits: Sequence[str] = SPLIT_NAMES
    min_confidence: Mapping[str, float] = field(default_factory=dict)
    earlier: Sequence[str] = ()
    license_id: str | None = None
    force: bool = False


@dataclass
class ExportCounts:
    """What an export holds and what it leaves out.

    Attributes:
        rows: by split, in the order of the splits.
        left_out: by a key of LEFT_OUT.
        new_captions: rows whose photo an earlier export had, with another caption.
        off_template: rows whose caption cannot be read, and that have the enhanced prompt's words.
        confidence: of each place, ``calibrated`` probability or ``uncalibrated``.
    """

    rows: Counter[str]
    left_out: Counter[str]
    new_captions: int = 0
    off_template: int = 0
    confidence: Mapping[str, str] = field(default_factory=dict)

    def manifest(self, settings: ExportSettings) -> dict[str, Any]:
        """What ``export.json`` says."""
        return {
            "made_by": MAKER,
            "version": __version__,
            "form": settings.form,
            "captions": settings.captions,
            "min_confidence": dict(settings.min_confidence),
            "rows": {split: self.rows[split] for split in SPLIT_NAMES if self.rows[split]},
            "left_out": {why: self.left_out[why] for why in LEFT_OUT if self.left_out[why]},
            "new_captions": self.new_captions,
            "off_template": self.off_template,
            "confidence": dict(self.confidence),
        }

    def sentences(self) -> list[str]:
        """For people."""
        parts = [f"{split} {self.rows[split]:,}" for split in SPLIT_NAMES if self.rows[split]]
        said = [f"{self.rows.total():,} rows ({', '.join(parts)})"]
        if self.new_captions:
            said.append(f"{self.new_captions:,} of them of photos that were there, captioned anew")
        if self.off_template:
            said.append(
                f"{self.off_template:,} of them with a caption off the template: their attributes "
                "are those of the enhanced prompt"
            )
        for why, what in LEFT_OUT.items():
            if self.left_out[why]:
                said.append(f"left out: {self.left_out[why]:,} {what}")
        kinds = ", ".join(f"{place} {kind}" for place, kind in self.confidence.items())
        return [*said, f"confidences are probabilities: {kinds}"]


def export_data(
    out: Path, params: Params, paths: ExportPaths, settings: ExportSettings
) -> ExportCounts:
    """Write the data set, with a card (``README.md``) and what later exports read of it.

    Equal inputs give equal bytes. Memory holds a batch of photos, the truth, 48 bytes a row of
    earlier exports, and what the form holds.

    Args:
        out: folder to write; it appears whole or not at all.
        params: what the card tells.
        paths: what is read.
        settings: what is exported, and how.

    Raises:
        FileExistsError: there is something in ``out``, and ``force`` is not given or it is no
            earlier export.
        NothingToExportError: no row is left.
        EarlierExportError, RevisionError: what is named as earlier is not there.
        OutputError: a table is not there, damaged, or does not fit the others.
        ValueError: a place of ``min_confidence`` is not known.
    """
    check_place(
        out, settings.force, lambda folder: read_manifest(folder) is not None, f"no {MANIFEST}"
    )
    _check_apart(out, paths, settings)
    require_outputs(*paths.read(settings.captions))
    reader = ExportReader(paths, settings.captions)
    limits = _limits(settings.min_confidence, reader.columns)
    earlier = EarlierRows(settings.earlier, paths, settings.captions) if settings.earlier else None
    counts = ExportCounts(Counter(), Counter(), confidence=_kinds(reader))
    with_photos = settings.form not in _WITHOUT_PHOTOS
    with atomic_directory(out) as directory:
        writer = _WRITERS[settings.form](directory, reader.columns)
        keys = KeysWriter(directory)
        try:
            rows = progress(reader.rows(with_photos), "photos", count_rows(paths.catalog))
            for some in batched(rows, _ROWS_AT_ONCE):
                kept = _new(list(_kept(some, settings, limits, counts)), earlier, counts)
                for row in kept:
                    _write(row, writer, counts)
                if kept:
                    keys.write(keys_of(kept))
            if not counts.rows.total():
                raise NothingToExportError(_nothing(counts))
        except BaseException:
            with suppress(Exception):  # all of it goes; this closes the files
                writer.finish()
                keys.finish()
            raise
        writer.finish()
        keys.finish()
        manifest = counts.manifest(settings)
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        (directory / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
        write_dataset_card(
            directory, out.resolve().name, params, reader.columns, manifest, settings.license_id
        )
    return counts


def _check_apart(out: Path, paths: ExportPaths, settings: ExportSettings) -> None:
    """An export may not replace what it is made from, or compared with."""
    place = out.resolve()
    for path in (*paths.read(settings.captions), *map(Path, settings.earlier)):
        other = path.resolve()
        if path.exists() and (place == other or other.is_relative_to(place)):
            raise FileExistsError(f"{out} holds {path}, which is read: name another folder.")


class _Limit(NamedTuple):
    """The least confidence of a place.

    Attributes:
        word: the column of what is said there, or None where something always is.
        confidence: the column.
        least: that it may be.
    """

    word: str | None
    confidence: str
    least: float

    def allows(self, values: Mapping[str, Any]) -> bool:
        if self.word is not None and values[self.word] is None:
            return True
        confidence = values[self.confidence]
        return confidence is not None and confidence >= self.least


def _limits(wanted: Mapping[str, float], columns: ExportColumns) -> list[_Limit]:
    places: dict[str, tuple[str | None, str]] = {
        CONFIDENCE: (None, CONFIDENCE),
        PAIR: (None, "pair_confidence"),
    } | {group: (one.word, one.confidence) for group, one in columns.groups.items()}
    for place in wanted:
        if place not in places:
            raise ValueError(
                f"--min-confidence {place}=...: there is no {place!r}; expected a number, which "
                f"is for all of a row, or one of {', '.join([*places][1:])} before it."
            )
    return [_Limit(*places[place], least) for place, least in wanted.items()]


def _kinds(reader: ExportReader) -> dict[str, str]:
    return {PAIR: "uncalibrated"} | {
        group: "calibrated" if calibrated else "uncalibrated"
        for group, calibrated in reader.calibrated.items()
    }


def _kept(
    rows: Sequence[ExportedRow],
    settings: ExportSettings,
    limits: Sequence[_Limit],
    counts: ExportCounts,
) -> Iterator[ExportedRow]:
    for row in rows:
        if row.values["split"] not in settings.splits:
            counts.left_out["other_split"] += 1
        elif row.values["caption"] is None:
            counts.left_out["no_caption"] += 1
        elif not all(limit.allows(row.values) for limit in limits):
            counts.left_out["unsure"] += 1
        else:
            yield row


def _new(
    rows: list[ExportedRow], earlier: EarlierRows | None, counts: ExportCounts
) -> list[ExportedRow]:
    if earlier is None or not rows:
        return rows
    whole, photo = earlier.have(keys_of(rows))
    counts.left_out["not_new"] += int(whole.sum())
    counts.new_captions += int((photo & ~whole).sum())
    return [row for row, there in zip(rows, whole.tolist(), strict=True) if not there]


def _write(row: ExportedRow, writer: FormWriter, counts: ExportCounts) -> None:
    photo = None if row.photo is None else photo_file(row.values["image_id"], row.photo)
    writer.write(row.values, photo)
    counts.rows[row.values["split"]] += 1
    counts.off_template += row.off_template


def _nothing(counts: ExportCounts) -> str:
    why = ", ".join(
        f"{counts.left_out[key]:,} {LEFT_OUT[key]}" for key in LEFT_OUT if counts.left_out[key]
    )
    return f"nothing to export: {why or 'the catalog is empty'}."


__all__ = ["ExportCounts", "ExportSettings", "export_data", "export_paths"]
