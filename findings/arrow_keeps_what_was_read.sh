#!/usr/bin/env bash
# Package: pyarrow 26.0.1.
# Expected: ParquetFile.iter_batches streams a file: however large it is, memory holds about a row
#     group, and what was gone through is freed.
# Happens: with pre_buffer, which is on by default, the bytes of every row group that was read stay in
#     memory until the file is closed. At the end all of a file of any size is there. With
#     pre_buffer=False they do not.
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
pip install --quiet pyarrow==26.0.1 numpy
cd "$folder"

python - <<'PYTHON'
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUPS = 64
random = np.random.default_rng(0)
with pq.ParquetWriter("numbers.parquet", pa.schema([("x", pa.float64())])) as writer:
    for _ in range(GROUPS):
        writer.write_table(pa.table({"x": random.random(2**17)}))  # a row group of 1 MiB

held = {}
for pre_buffer in (True, False):
    with pq.ParquetFile("numbers.parquet", pre_buffer=pre_buffer) as file:
        for batch in file.iter_batches(2**14):
            pass
        del batch
        held[pre_buffer] = pa.total_allocated_bytes() / 2**20
    print("Seen:", f"pre_buffer={pre_buffer}: {held[pre_buffer]:.0f} MiB held at the end of {GROUPS} MiB")
if not (held[True] > GROUPS / 2 and held[False] < 8):
    sys.exit("CHANGED: this is no longer so.")
PYTHON
