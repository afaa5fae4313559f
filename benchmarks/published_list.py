"""How long a published list of compositional zero-shot learning takes to become a catalog.

    python benchmarks/published_list.py LIST.t7 SEEN_PAIRS.txt [--other-split 98] [--source FOLDER]

The photos of such lists are large and not ours: every entry gets a picture of 8 x 8 pixels of its
own. Training's pairs are those given; validation's and test's are those of their photos, but for
pairs that training's photos have and its file does not, and but for rare pairs of validation that
only test's file is made to list, with as many photos as asked for: real files have such. The stage
`download` then runs in a process of its own; what it counts is held against a count of the list.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
SPLIT = "compositional-split-natural"
SPLITS = ("train", "val", "test")
OUTPUTS = ("catalog", "truth", "rejected", "listed-pairs", "metrics")

Pairs = set[tuple[str, str]]


def pair_files(entries: list[dict[str, str]], seen: Pairs, moved: int) -> dict[str, Pairs]:
    """The pairs of each split: see above."""
    photos = {name: Counter[tuple[str, str]]() for name in SPLITS}
    for one in entries:
        photos[one["set"]][one["attr"], one["obj"]] += 1
    unseen = {name: set(photos[name]) - seen - (set(photos["train"]) - seen) for name in SPLITS}
    pairs = {
        "train": seen,
        "val": (set(photos["val"]) & seen) | unseen["val"],
        "test": (set(photos["test"]) & seen) | unseen["test"],
    }
    for pair in sorted(unseen["val"], key=lambda pair: (-photos["val"][pair], pair)):
        if photos["val"][pair] <= moved:
            moved -= photos["val"][pair]
            pairs["val"].remove(pair)
            pairs["test"].add(pair)
    if moved:
        raise SystemExit(f"no pairs of validation have the {moved} photos that are left to move")
    return pairs


def expected(entries: list[dict[str, str]], pairs: dict[str, Pairs]) -> dict[str, int]:
    """What the stage must count, by the rules of the field's loaders."""
    counted = Counter[str]()
    for one in entries:
        pair = one["attr"], one["obj"]
        if not any(pair in pairs[name] for name in SPLITS):
            counted["unlisted_pair"] += 1
        elif pair in pairs["train"] or pair in pairs[one["set"]]:
            counted["images"] += 1
        else:
            counted["other_split"] += 1
    return dict(counted)


def write(folder: Path, listed: Path, pairs: dict[str, Pairs]) -> int:
    """The data set; how many pictures it has."""
    (folder / SPLIT).mkdir(parents=True)
    (folder / f"metadata_{SPLIT}.t7").write_bytes(listed.read_bytes())
    for name, some in pairs.items():
        lines = "\n".join(" ".join(pair) for pair in sorted(some))
        (folder / SPLIT / f"{name}_pairs.txt").write_text(lines)
    entries = torch.load(listed, weights_only=True)
    for number, one in enumerate(entries):
        path = folder / "images" / one["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), tuple(number.to_bytes(3))).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
    return len(entries)


def download(root: Path, folder: Path, out: Path) -> dict[str, Any]:
    """Run the stage of the project at ``root``; its seconds, memory and metrics."""
    document = yaml.safe_load((root / "params.yaml").read_text())
    document["download"]["dataset"] = "cgqa"
    document["download"]["cgqa"]["path"] = str(folder)
    document["base"]["rows"]["path"] = str(out / "rows")
    out.mkdir()
    (out / "params.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, str(root / "stages" / "download.py")]
    command += ["--params", str(out / "params.yaml")]
    for name in OUTPUTS:
        command += [f"--{name}", str(out / name)]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    subprocess.run(command, check=True, cwd=out, env=environment)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 1),
        "resident_mib": used.ru_maxrss // 1024,
        "metrics": json.loads((out / "metrics").read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", type=Path)
    parser.add_argument("seen_pairs", type=Path)
    parser.add_argument("--other-split", type=int, default=98)
    parser.add_argument("--source", type=Path, default=ROOT, help="another checkout, to compare")
    args = parser.parse_args()
    entries = torch.load(args.list, weights_only=True)
    lines = args.seen_pairs.read_text().splitlines()
    seen = {(attribute, object_) for attribute, object_ in map(str.split, lines)}
    pairs = pair_files(entries, seen, args.other_split)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "data")
        write(folder, args.list, pairs)
        found = download(args.source.resolve(), folder, Path(name, "out"))
    metrics = found.pop("metrics")
    counted = {
        "images": metrics["images"],
        "unlisted_pair": metrics["dropped"]["unlisted_pair"],
        "other_split": metrics["rejected"].get("other_split", 0),
    }
    wanted = {"other_split": 0} | expected(entries, pairs)
    print(json.dumps({"entries": len(entries), "pairs": {k: len(v) for k, v in pairs.items()}}))
    print(json.dumps(found | counted))
    if counted != wanted:
        sys.exit(f"counted {counted}, expected {wanted}")


if __name__ == "__main__":
    main()
