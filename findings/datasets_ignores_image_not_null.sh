#!/usr/bin/env bash
# Package: datasets 5.2.0, with pyarrow 26.0.1 and pillow 13.0.0.
# Expected: a Parquet file whose schema says that a column is an Image is read as images, whether
#     or not the column may hold nulls.
# Happens: where the column is declared not null, the stored features are passed over without a
#     warning, and the column comes back as a plain dictionary of bytes and path.
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
import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from PIL import Image

png = io.BytesIO()
Image.new("RGB", (2, 2), "red").save(png, "PNG")
stored = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
rows = pa.array([{"bytes": png.getvalue(), "path": "red.png"}], stored)
features = {"info": {"features": {"photo": {"_type": "Image"}}}}

found = {}
for nullable in (True, False):
    schema = pa.schema(
        [pa.field("photo", stored, nullable=nullable)],
        metadata={"huggingface": json.dumps(features)},
    )
    path = f"nullable_{nullable}.parquet"
    pq.write_table(pa.table([rows], schema=schema), path)
    read = Dataset.from_parquet(path)
    found[nullable] = isinstance(read[0]["photo"], Image.Image)
    print("Seen:" if nullable else "     ", "column may be null:", nullable)
    print("        features:", read.features)
    print("        a value is a", type(read[0]["photo"]).__name__)
if found != {True: True, False: False}:
    sys.exit("CHANGED: this is no longer so.")
PYTHON
