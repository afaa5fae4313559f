#!/usr/bin/env bash
# Package: datasets 5.2.0, with pyarrow 26.0.1 and pillow 13.0.0.
# Expected: a folder of images with a metadata.jsonl for each split is read, whichever values are
#     unknown: a column of text that is null throughout one split is one of text all the same.
# Happens: types are taken from each file by itself, and a column without a value in one of them
#     "has different features": nothing is read. The same rows in one file are.
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
export HF_HUB_OFFLINE=1 HF_HOME="$folder/home" HF_DATASETS_DISABLE_PROGRESS_BARS=1
pip install --quiet datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0
cd "$folder"

python - <<'PYTHON'
import json
import sys
from pathlib import Path

from datasets import load_dataset
from PIL import Image


def write(name, titles):
    folder = Path(name)
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as file:
        for number, title in enumerate(titles):
            Image.new("RGB", (2, 2), "red").save(folder / f"{number}.png")
            file.write(json.dumps({"file_name": f"{number}.png", "title": title}) + "\n")


def read(name):
    try:
        splits = load_dataset("imagefolder", data_dir=name)
    except ValueError as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:60]} ..."
    return {split: rows["title"][:] for split, rows in splits.items()}


for split, titles in {"train": ["boots"], "validation": [None]}.items():
    write(f"two/{split}", titles)
write("one", ["boots", None])
found = {name: read(name) for name in ("two", "one")}
print("Seen: a file a split:", found["two"])
print("      one file:", found["one"])
if not (isinstance(found["two"], str) and found["one"] == {"train": ["boots", None]}):
    sys.exit("CHANGED: this is no longer so.")
PYTHON
