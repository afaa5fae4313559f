"""A catalogue that grows: what every stage computes of the photos that are new, and how long.

In a clone of the last commit, with photos, labels and pretrained models of the finished run in the
working folder: the photos as a ``folder`` of their own are trained on for an epoch, the models kept
(``compositional-prompts keep``), and photos are added. Beyond those that there are, photos are
repeated with changed pixels. Printed are, for every step, the rows that each stage went through and
computed, its seconds without and with start-up, and the bytes that a ``dvc push`` of all outputs
adds to the remote. Steps named ``anew`` begin with an empty row store.

    python benchmarks/growth.py                                   # 2,400 photos, then 24 more
    python benchmarks/growth.py --steps 2400 2424 24000:anew 24240 # half an hour
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring.cloned_project import ClonedProject
from PIL import Image

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.reading import LABEL_COLUMNS, iterate_batches
from compositional_prompts.catalog.truth import read_truth

GROUPS = ("color", "material")
COMPUTING = (
    "download",
    "troika_predict",
    "clip_embed",
    "colors",
    "blip2_features",
    "infer-base",
    "infer-finetuned",
)
"""Stages whose costly part is rows of photos."""


@dataclass(frozen=True)
class Photo:
    """An encoded photo and its row of labels."""

    name: str
    encoded: bytes
    labels: Mapping[str, str]


def photos_of(run: Path) -> list[Photo]:
    """The photos of a finished run's catalogue."""
    found = []
    for batch in iterate_batches(run / "data/catalog", [*LABEL_COLUMNS, "image"]):
        truth = read_truth(run / "data/truth.parquet", batch.column("image_id"), GROUPS)
        for place, row in enumerate(batch.to_pylist()):
            labels = {name: row[name] or "" for name in ("product_id", "attribute", "object")}
            labels |= {group: ";".join(truth[group][place]) for group in GROUPS}
            name = f"{len(found):06d}"
            found.append(Photo(name, row["image"]["bytes"], labels))
    return found


def repeated(photos: Sequence[Photo], start: int, stop: int) -> Iterator[Photo]:
    """Photos ``start`` to ``stop`` of an endless catalogue: the photos, then copies of other pixels
    and products."""
    for number in range(start, stop):
        photo = photos[number % len(photos)]
        copy = number // len(photos)
        if copy:
            pixels = np.array(decode_rgb(photo.encoded))
            pixels[: 1 + copy % 4, : 1 + copy // 4] = np.random.default_rng(number).integers(
                0, 256, 3
            )
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
            labels = {**photo.labels, "product_id": f"{copy}-{photo.labels['product_id']}"}
            photo = Photo(f"{number:06d}", buffer.getvalue(), labels)
        yield photo


class GrowingProject(ClonedProject):
    """A clone whose photos are a folder."""

    def __init__(self, folder: Path, run: Path) -> None:
        """Clone the last commit, with the pretrained models of a finished run."""
        super().__init__(folder, run)
        self._remote = folder / "remote"
        self._rows: list[dict[str, str]] = []
        (self.root / "photos").mkdir()

        def keep_labels_in_a_csv(document: dict[str, Any]) -> None:
            document["download"]["dataset"] = "folder"
            document["download"]["folder"]["labels"] = "photos.csv"
            for stage in ("troika_train", "finetune"):
                document[stage]["epochs"] = 1  # what is measured is rows, not training

        self.edit(keep_labels_in_a_csv)
        self.run("dvc", "remote", "add", "-q", "-d", "storage", str(self._remote))

    def add(self, photos: Iterator[Photo]) -> None:
        for photo in photos:
            (self.root / "photos" / f"{photo.name}.jpg").write_bytes(photo.encoded)
            self._rows.append({"image_path": f"{photo.name}.jpg", **photo.labels})
        with (self.root / "photos.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self._rows[0]))
            writer.writeheader()
            writer.writerows(self._rows)

    def pushed(self) -> int:
        """Bytes that a push adds to the remote."""
        before = size(self._remote)
        self.run("dvc", "push", "-q")
        return size(self._remote) - before

    def forget_rows(self) -> None:
        shutil.rmtree(self.root / "rows", ignore_errors=True)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def report(
    step: str, seconds: float, records: Mapping[str, Mapping[str, Any]], pushed: int
) -> float:
    """Print a step; returns the seconds of the computing stages."""
    print(f"\n{step}: {seconds:.0f} s, {pushed / 2**20:.1f} MiB pushed")
    print(f"{'stage':18}{'rows':>10}{'computed':>10}{'seconds':>10}")
    for name, record in records.items():
        computed = record.get("computed")
        print(
            f"{name:18}{record['rows']:>10,}{'' if computed is None else f'{computed:,}':>10}"
            f"{record['seconds']:>10.1f}"
        )
    together = sum(records[name]["seconds"] for name in COMPUTING if name in records)
    own = sum(record["seconds"] for record in records.values())
    print(f"computing stages {together:.1f} s; start-up and DVC {seconds - own:.1f} s", flush=True)
    return together


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path(), help="a finished run (default: here)")
    parser.add_argument(
        "--steps",
        nargs="+",
        default=["2400", "2424"],
        help="photos after each step; with :anew the row store is emptied first",
    )
    arguments = parser.parse_args()
    photos = photos_of(arguments.run.resolve())
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        project = GrowingProject(Path(name), arguments.run.resolve())
        there, full = 0, 0.0
        for place, step in enumerate(arguments.steps):
            number, _, anew = step.partition(":")
            project.add(repeated(photos, there, int(number)))
            more, there = int(number) - there, int(number)
            if anew:
                project.forget_rows()
            seconds, records = project.repro()
            title = f"{there:,} photos, {more:,} of them new"
            title += ", empty row store" if anew or not place else ""
            together = report(title, seconds, records, project.pushed())
            if anew or not place:
                full = together
            else:
                print(
                    f"the computing stages are {full / together:.1f} times as fast as from nothing"
                )
            if not place:
                project.run("git", "add", "-A")
                project.run(
                    "git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "Run"
                )
                print(project.run("compositional-prompts", "keep"))
                seconds, records = project.repro()
                report("the models are kept from here on", seconds, records, project.pushed())


if __name__ == "__main__":
    sys.exit(main())
